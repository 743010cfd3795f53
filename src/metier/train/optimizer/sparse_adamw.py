"""AdamW in which every number has an age of its own.

For weights that change places in training (`train.parameters.spiel`): a number that has just come is corrected for the
few gradients it has seen, not for the steps of the training. Where all numbers are there from the start it is AdamW,
with three numbers kept for each instead of two, and slower than `adamw`; take that.

    m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  a ← a + 1
    θ ← θ − lr · (m / (1−β₁ᵃ) / (√(v / (1−β₂ᵃ)) + eps) + weight_decay·θ)

Paper: 68
Options:
    lr: learning rate at the peak of the schedule.
    beta1: memory of the gradient.
    beta2: memory of its square.
    eps: keeps a division finite.
    weight_decay: pull towards zero per step, times the rate; a group of parameters may set its own.
Differs: ages are kept in float32 whatever the weights are, so that they grow.
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
    """State of each weight: ``exp_avg``, ``exp_avg_sq`` and ``age``, of its shape."""
    return SparseAdamW(groups, {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})


class SparseAdamW(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                state = self.state[weight]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
                    state["age"] = torch.zeros_like(weight, dtype=torch.float32)
                mean, square, age = state["exp_avg"], state["exp_avg_sq"], state["age"].add_(1)
                mean.lerp_(weight.grad, 1 - group["beta1"])
                square.mul_(group["beta2"]).addcmul_(weight.grad, weight.grad, value=1 - group["beta2"])
                root = (square / (1 - group["beta2"] ** age)).sqrt_().add_(group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * mean / (1 - group["beta1"] ** age) / root)
