"""AdaLomo: LOMO with a step that adapts to each row and column of a matrix.

For training every weight where memory is short and plain gradient descent learns too slowly: it needs little more than
`lomo` (a number for each row and column) and learns nearly as AdamW does. A step is one micro-batch; `max_grad_norm`
must be 0. Its step is a share of the size of the weight, so its rate is not Adam's: around 1e-3. Not for weights that
begin at zero (LoRA, a new head), which it moves very slowly.

    t = 1, 2, …;  β = 1 − t^decay_rate;  u = g² + 1e-30
    matrix [m, n]:  r ← β·r + (1−β)·mean over columns of u;  c ← β·c + (1−β)·mean over rows of u
                    s = g / √(r / mean(r))ᵢ / √cⱼ
    vector:         v ← β·v + (1−β)·u;  s = g / √v
    ŝ = s / max(1, RMS(s) / clip_threshold);   a = lr·max(1e-3, RMS(θ));   θ ← θ·(1 − a·weight_decay) − a·ŝ

Paper: 59
Options:
    lr: learning rate at the peak of the schedule, as a share of the size of each tensor.
    clip_threshold: largest RMS of a tensor's step before the rate.
    decay_rate: how fast the second moments come to be an average over many steps; −0.8 is Adafactor's.
    weight_decay: pull towards zero per step, times the tensor's own rate; a group may set its own.
Differs: the paper's clipping by the norm of all gradients is left out: the bound on each tensor's step takes its place
    and needs no second pass. Tensors of three dimensions and more are treated as vectors.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from metier.options import NonNegative, Positive
from metier.train.optimizer._fused import Fused, exact, one_by_one

EXEMPT = {"a_quadratic_goes_down": "its step is a share of the weight's size: from a weight of zero it cannot get far"}
Decay = Annotated[float, Field(lt=0, allow_inf_nan=False)]
TINY, SMALLEST = 1e-30, 1e-3  # what is added to g²; the least size of a tensor that a step is a share of


def optimizer(
    groups: list[dict[str, Any]], *, lr: NonNegative = 1e-3, clip_threshold: Positive = 1.0, decay_rate: Decay = -0.8,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """Over the groups; its state is m + n numbers for a matrix [m, n] and as many as a vector has."""
    return Fused(groups, {"lr": lr, "clip_threshold": clip_threshold, "decay_rate": decay_rate,
                          "weight_decay": weight_decay})  # fmt: skip


def backward(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Differentiates and moves; afterwards no weight has a gradient."""

    def move(weight: Tensor, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        step = scaled(weight.grad.float(), optimizer.state[weight], group["decay_rate"])
        step.div_(max(1.0, float(rms(step)) / group["clip_threshold"]))
        with exact(weight) as wide:
            rate = group["lr"] * max(SMALLEST, float(rms(wide)))
            wide.mul_(1 - rate * group["weight_decay"]).sub_(step, alpha=rate)

    with one_by_one(optimizer, move):
        loss.backward()


def scaled(gradient: Tensor, state: dict[str, Any], decay_rate: float) -> Tensor:
    """The gradient over the roots of its second moments, in its place: of an embedding each copy is much memory.

    ``state`` keeps step, row [m] and column [n], or all.
    """
    state["step"] = state.get("step", 0) + 1
    beta = 1 - state["step"] ** decay_rate
    squares = gradient.square().add_(TINY)
    if gradient.dim() != 2:
        return gradient.mul_(_mixed(state, "all", squares, beta).rsqrt())
    row, column = _mixed(state, "row", squares.mean(1), beta), _mixed(state, "column", squares.mean(0), beta)
    del squares
    return gradient.mul_((row / row.mean()).rsqrt()[:, None]).mul_(column.rsqrt())


def _mixed(state: dict[str, Any], name: str, new: Tensor, beta: float) -> Tensor:
    kept: Tensor = state.setdefault(name, torch.zeros_like(new))
    return kept.mul_(beta).add_(new, alpha=1 - beta)


def rms(values: Tensor) -> Tensor:
    """Root of the mean square: a scalar."""
    return torch.linalg.vector_norm(values) / math.sqrt(values.numel())
