"""Masks on gradients, between the last backward and clipping: what the masking methods share.

A mask on the gradient alone protects nothing: weight decay pulls at every weight, and an optimizer remembers gradients
from before. So decay is scaled by the mask too, and what must stay is put back after the step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from metier.train.setup import Clock

EXACT = 100_000_000  # numbers that are sorted; of more, those that agree in 16 bits (1 % of their size) share a rank
UPPER = 1 << 15  # values of the upper 16 bits of a positive float32
SAMPLE, CACHED = 4096, 1 << 18  # numbers that are looked at; that fit a processor's cache


@dataclasses.dataclass(frozen=True)
class Factor:
    """What is multiplied of ``weight``: a number for each index along ``axis``."""

    weight: nn.Parameter
    values: Tensor
    axis: int

    def shaped(self) -> Tensor:
        """As it lies over the weight."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.weight.dim())]
        return self.values.to(self.weight.device).view(shape)

    def zeros(self) -> Tensor:
        """Where along the axis the factor is 0."""
        return (self.values == 0).nonzero()[:, 0].to(self.weight.device)


class Decay:
    """Weight decay scaled by masks: done here before the optimizer moves, which has its own again afterwards."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, object], float]] = []

    @torch.no_grad()
    def take(self, optimizer: torch.optim.Optimizer, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """θ ← θ·(1 − lr · weight_decay · mask) in the groups that hold masked weights; others there have the mask 1."""
        for group in optimizer.param_groups:
            rate = group.get("weight_decay", 0.0)
            if rate and any(weight in masks for weight in group["params"]):
                for weight in (p for p in group["params"] if p.grad is not None):
                    weight.mul_(1 - group["lr"] * rate * masks.get(weight, torch.ones(())))
                self.taken.append((group, rate))
                group["weight_decay"] = 0.0

    def give_back(self) -> None:
        """The optimizer's groups as they were: checkpoints hold them."""
        for group, rate in self.taken:
            group["weight_decay"] = rate
        self.taken.clear()


class Fixed:
    """Factors that stay all through training. Where one is 0, the weight stays bit for bit under any optimizer.

    *gradient*: the gradient is multiplied, and decay with it; Adam, which divides a gradient by its own size, takes any
    other factor than 0 back. *step*: how far the weight has moved is multiplied, whatever moved it; a copy of the
    weights is held meanwhile.
    """

    def __init__(self, factors: Sequence[Factor], of: Literal["gradient", "step"]) -> None:
        self.factors = [factor for factor in factors if bool((factor.values != 1).any())]
        self.of, self.decay = of, Decay()
        self.before: list[Tensor] = []

    @torch.no_grad()
    def edit(self, clock: Clock) -> None:
        if self.of == "step":
            self.before = [factor.weight.clone() for factor in self.factors]
            return
        if not self.before:  # now that the weights are where they will stay
            self.before = [factor.weight.index_select(factor.axis, factor.zeros()) for factor in self.factors]
        shaped = {factor.weight: factor.shaped() for factor in self.factors if factor.weight.grad is not None}
        for weight, factor in shaped.items():
            assert weight.grad is not None
            weight.grad.mul_(factor)
        self.decay.take(clock.optimizer, shaped)

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        self.decay.give_back()
        for factor, before in zip(self.factors, self.before, strict=True):
            if self.of == "step":  # at 0 and 1 exactly the one and the other
                torch.lerp(before, factor.weight, factor.shaped().expand_as(before), out=factor.weight)
            else:
                factor.weight.index_copy_(factor.axis, factor.zeros(), before)
        if self.of == "step":
            self.before = []


@torch.no_grad()
def keep_largest(tensors: Sequence[Tensor], count: int) -> None:
    """All but the ``count`` largest |x| of all the tensors become 0, in place. Of equal ones the first stay."""
    last, left = _last(tensors, count)
    under = float(np.nextafter(np.float32(last), np.float32(0)))
    for tensor in tensors:
        if left is not None and last > 0:
            equal = (tensor.abs() == last).flatten().nonzero()[:, 0]
            tensor.view(-1)[equal[left:]] = 0
            left -= min(len(equal), left)
        torch.hardshrink(tensor, under, out=tensor)  # a product with a mask takes six times as long


def ranks(values: Sequence[Tensor], exact: int = EXACT) -> tuple[list[Tensor], Tensor]:
    """The rank of each number x ≥ 0 among all, 0 for the least and 1 for the largest; equal ones share the middle.

    For each tensor the places of its numbers in the table that comes second. Above ``exact`` numbers, those that agree
    in the upper 16 bits count as equal.
    """
    flat = [value.detach().float().flatten() for value in values]
    total = sum(map(len, flat))
    if total <= exact:
        _, places, counts = torch.unique(torch.cat(flat), return_inverse=True, return_counts=True)
        found = list(places.split([len(value) for value in flat]))
    else:
        found = [_bits(value) >> 16 for value in flat]
        counts = torch.stack([torch.bincount(places.flatten(), minlength=UPPER) for places in found]).sum(0)
    middle = counts.cumsum(0).double() - (counts + 1) / 2
    table = (middle / max(total - 1, 1)).float()
    return [place.view(value.shape) for place, value in zip(found, values, strict=True)], table


def _last(tensors: Sequence[Tensor], count: int) -> tuple[float, int | None]:
    """The ``count``-th largest |x|, and how many equal to it are among the ``count``; None when all of them are.

    A sample tells between which two numbers it lies; only what lies there too is sorted.
    """
    total = sum(tensor.numel() for tensor in tensors)
    stride = total // SAMPLE | 1  # odd, or it would meet the same columns in every row
    some = torch.cat([tensor.flatten()[::stride] for tensor in tensors]).abs().sort(descending=True).values
    at, reach = count / total * len(some), 1 + 4 * math.sqrt(len(some) * count / total * (1 - count / total))
    high = float(some[int(at - reach)]) if at >= reach else math.inf
    low = float(some[int(at + reach)]) if at + reach < len(some) else 0.0
    above, inside = _between(tensors, low, high)
    if not above < count <= above + len(inside):
        above, inside = _between(tensors, 0.0, math.inf)
    if not len(inside):  # nothing is a number: the training is about to end with a sentence
        return 0.0, None
    wanted = min(count - above, len(inside))
    last = inside.kthvalue(len(inside) - wanted + 1).values
    left = wanted - int((inside > last).sum())
    return float(last), None if left == int((inside == last).sum()) else left


def _between(tensors: Sequence[Tensor], low: float, high: float) -> tuple[int, Tensor]:
    """How many |x| are greater than ``high``, and those from ``low`` to ``high``."""
    above, inside = 0, []
    for tensor in tensors:
        if tensor.is_cpu:  # where numpy compares and picks four times as fast
            for part in np.split(tensor.numpy().reshape(-1), range(CACHED, tensor.numel(), CACHED)):
                found = np.abs(part)
                greater = found > high
                above += int(np.count_nonzero(greater))
                inside.append(torch.from_numpy(found[(found >= low) ^ greater]))
        else:
            absolute = tensor.abs().flatten()
            above += int((absolute > high).count_nonzero())
            inside.append(absolute[(absolute >= low) & (absolute <= high)])
    return above, torch.cat(inside)


def _bits(values: Tensor) -> Tensor:
    """|x| in float32 as whole numbers, which lie in the same order."""
    return values.detach().float().abs().contiguous().view(torch.int32)
