"""AdamW: Adam with decoupled weight decay, the usual optimizer of language models.

For LoRA a rate around 2e-4, for all weights 1e-5. Its state is two numbers a trained weight. Not for full fine-tuning
where memory is short.

    m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − lr·(m̂ / (√v̂ + eps) + weight_decay·θ)

Paper: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
Options:
    lr: learning rate at the peak of the schedule.
    beta1: memory of the gradient.
    beta2: memory of its square.
    eps: keeps a division finite.
    weight_decay: pull towards zero per step, times the rate; a group of parameters may set its own.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from metier.options import NonNegative, Positive

Beta = Annotated[float, Field(ge=0, lt=1)]


def optimizer(
    groups: list[dict[str, Any]], *, lr: NonNegative = 2e-4, beta1: Beta = 0.9, beta2: Beta = 0.999,
    eps: Positive = 1e-8, weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """torch's AdamW over the groups, in its fused form: one pass over memory a step."""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)
