"""LOMO: plain gradient descent that moves each weight inside backward and keeps no gradient.

For training every weight on a machine that can hold the model and little else: gradients live one tensor at a time and
there is no state. It learns as slowly as plain gradient descent does, and wants its rate (around 1e-2), not Adam's;
`adalomo` learns faster, LoRA is better where few weights suffice. A step is one micro-batch, and the loop's own
`max_grad_norm` must be 0: nobody ever holds the whole gradient.

    θ ← θ·(1 − lr·weight_decay) − lr·c·clamp(g, ±max_value),   c = min(1, max_norm / (‖g‖ + 1e-6))

‖g‖ is over all weights, after the clamp. Without `clip`, c is 1.

Paper: 59
Options:
    lr: learning rate at the peak of the schedule.
    clip: *none*; *two_pass* finds ‖g‖ in a backward pass of its own, exact and twice as slow; *lagged* takes the ‖g‖ of
        the step before, at no cost (the first step is a two_pass).
    max_norm: longest gradient, when it is clipped.
    max_value: largest part of a gradient; not bounded when not given.
    weight_decay: pull towards zero per step, times the rate; a group of parameters may set its own.
Differs: no loss scale, since weights are float32 here and bfloat16 needs none. The clamp comes before the norm in both
    passes, where the released code takes the norm of the unclamped gradient. *lagged* is ours. Weights of another
    dtype are moved in float32 and rounded, which loses steps smaller than the rounding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from metier.options import NonNegative, Positive
from metier.train.optimizer._fused import Fused, exact, one_by_one


def optimizer(
    groups: list[dict[str, Any]], *, lr: NonNegative = 1e-2, clip: Literal["none", "two_pass", "lagged"] = "none",
    max_norm: Positive = 1.0, max_value: Positive | None = None, weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """Over the groups; *lagged* keeps one number a tensor, else there is no state."""
    return Fused(groups, {"lr": lr, "clip": clip, "max_norm": max_norm, "max_value": max_value,
                          "weight_decay": weight_decay})  # fmt: skip


def backward(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Differentiates and moves; afterwards no weight has a gradient."""
    rule = optimizer.param_groups[0]
    share = 1.0
    if rule["clip"] != "none":
        squares = _kept(optimizer) if rule["clip"] == "lagged" else []
        if not squares:
            squares = _squares(optimizer, loss)
        norm = float(torch.stack(squares).sum().sqrt())
        share = min(1.0, rule["max_norm"] / (norm + 1e-6))

    def move(weight: Tensor, group: dict[str, Any]) -> None:
        gradient = _gradient(weight, group)
        if group["clip"] == "lagged":
            optimizer.state[weight]["square"] = _square(gradient)
        with exact(weight) as wide:
            wide.mul_(1 - group["lr"] * group["weight_decay"]).sub_(gradient, alpha=group["lr"] * share)

    with one_by_one(optimizer, move):
        loss.backward()


def _kept(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Squared norms of the step before, in the order of the groups: their sum is then the same after a kill."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [optimizer.state[w]["square"] for w in weights if "square" in optimizer.state.get(w, {})]


def _squares(optimizer: torch.optim.Optimizer, loss: Tensor) -> list[Tensor]:
    """Squared norms of all gradients, which are freed again; the graph stays."""
    found: list[Tensor] = []
    with one_by_one(optimizer, lambda weight, group: found.append(_square(_gradient(weight, group)))):
        loss.backward(retain_graph=True)
    return found


def _square(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient).square().cpu()


def _gradient(weight: Tensor, group: dict[str, Any]) -> Tensor:
    assert weight.grad is not None
    gradient, bound = weight.grad.float(), group["max_value"]
    return gradient if bound is None else gradient.clamp_(-bound, bound)
