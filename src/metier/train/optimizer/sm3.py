"""SM3: a sum of squares for each row and column of a matrix, instead of one for each number.

For training with hardly any optimizer state. It is Adagrad with a rougher estimate, so its steps shrink as the training
goes on; it wants a rate ten to a hundred times that of AdamW and learns slower. With `train.parameters.spiel` its sums
also tell where changes are wanted.

    ν_ij = min(r_i, c_j) + g_ij²;  r_i ← max_j ν_ij;  c_j ← max_i ν_ij
    θ ← θ·(1 − lr·weight_decay) − lr · g / √(ν + 1e-8)

Over the numbers that are there: all of a matrix (higher dimensions are one), or, in a group that tells ``indices`` and
``shape``, those of its one tensor of numbers. Vectors keep a sum for each number.

Paper: 68 (its momentum variant), after Anil et al., Memory-Efficient Adaptive Optimization, 2019
Options:
    lr: learning rate at the peak of the schedule.
    weight_decay: pull towards zero per step, times the rate; a group of parameters may set its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metier.options import NonNegative

EXEMPT = {
    "a_quadratic_goes_down": "its steps shrink with the root of their number: 60 of them at a rate of 0.1 go less than"
    " 1.6, and the goal is 3 away"
}
SMALL = 1e-8


def optimizer(
    groups: list[dict[str, Any]], *, lr: NonNegative = 1e-3, weight_decay: NonNegative = 0.0
) -> torch.optim.Optimizer:  # fmt: skip
    """State of each weight: ``row`` [rows] and ``column`` [columns]; of a vector ``sum``."""
    return SM3(groups, {"lr": lr, "weight_decay": weight_decay})


class SM3(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                squares = weight.grad.float().square()
                if "indices" in group:
                    sums = sparse(self.state[weight], squares, group["indices"], *group["shape"])
                elif weight.dim() > 1:
                    sums = dense(self.state[weight], squares.flatten(1)).view_as(weight)
                else:
                    sums = self.state[weight].setdefault("sum", torch.zeros_like(squares)).add_(squares)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * weight.grad * (sums + SMALL).rsqrt())


def dense(state: dict[str, Tensor], squares: Tensor) -> Tensor:
    """ν of all numbers: [rows, columns]; the state moves on."""
    row, column = _sums(state, squares, *squares.shape)
    found = torch.minimum(row[:, None], column[None]) + squares
    row.copy_(found.amax(1))
    column.copy_(found.amax(0))
    return found


def sparse(state: dict[str, Tensor], squares: Tensor, indices: Tensor, rows: int, columns: int) -> Tensor:
    """ν of the numbers that are there: [k]; rows and columns without one keep their sums."""
    row, column = _sums(state, squares, rows, columns)
    i, j = indices.long() // columns, indices.long() % columns
    found = torch.minimum(row[i], column[j]) + squares
    row.scatter_reduce_(0, i, found, "amax")
    column.scatter_reduce_(0, j, found, "amax")
    return found


def _sums(state: dict[str, Tensor], squares: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    if not state:
        state["row"], state["column"] = squares.new_zeros(rows), squares.new_zeros(columns)
    return state["row"], state["column"]
