"""Optimizers that move a weight inside the backward pass, as soon as its gradient is whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Act = Callable[[Tensor, dict[str, Any]], None]  # a weight whose gradient is whole, and its group


class Fused(torch.optim.Optimizer):
    """Its weights have moved when ``backward`` returns, so that a step has nothing left to do."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pass


@contextmanager
def one_by_one(optimizer: torch.optim.Optimizer, act: Act) -> Iterator[None]:
    """In a backward pass inside it ``act`` gets each weight once, all its uses summed; then its gradient is freed.

    PyTorch runs the hook after the last use of the weight has been differentiated, so that no use of a tied weight
    sees it moved. The hooks are gone afterwards, whatever happens.
    """

    @torch.no_grad()
    def hook(weight: Tensor, group: dict[str, Any]) -> None:
        act(weight, group)
        weight.grad = None

    handles = [
        weight.register_post_accumulate_grad_hook(functools.partial(hook, group=group))
        for group in optimizer.param_groups for weight in group["params"]
    ]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def exact(weight: Tensor) -> Iterator[Tensor]:
    """The weight in float32, to be changed in place: itself, or a copy that is rounded back."""
    wide = weight.float()
    yield wide
    if wide is not weight:
        weight.copy_(wide)
