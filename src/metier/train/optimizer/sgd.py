"""Plain gradient descent, which remembers nothing unless momentum is asked for.

For comparing optimizers, for exact repetition (its step is linear in the gradient), and where memory is short: without
momentum it has no state. Language models want a rate around 1e-2 with it and learn slower than with AdamW.

    m ← momentum·m + g;  θ ← θ·(1 − lr·weight_decay) − lr·m

Paper: Robbins and Monro, A Stochastic Approximation Method, 1951.
Options:
    lr: learning rate at the peak of the schedule.
    momentum: memory of the gradient; 0 keeps none.
    weight_decay: pull towards zero per step, times the rate; a group of parameters may set its own.
Differs: from torch's SGD in its decay, which here is not part of the gradient, as in AdamW.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from metier.options import NonNegative

Momentum = Annotated[float, Field(ge=0, lt=1)]


def optimizer(
    groups: list[dict[str, Any]], *, lr: NonNegative = 1e-2, momentum: Momentum = 0.0, weight_decay: NonNegative = 0.0
) -> torch.optim.Optimizer:  # fmt: skip
    """Over the groups; with momentum one number a trained weight is kept."""
    return Descent(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})


class Descent(torch.optim.Optimizer):
    """torch's own SGD adds the decay to the gradient, where momentum would remember it."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                moved = weight.grad
                if group["momentum"]:
                    kept = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                    moved = kept.mul_(group["momentum"]).add_(moved)
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(moved, alpha=group["lr"])
