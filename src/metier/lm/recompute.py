"""Activations that are computed again in the backward pass instead of kept from the forward pass."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from metier.lm.expand import blocks


def recompute(network: nn.Module, owner: str) -> None:
    """Lets each block keep only what enters it while it trains; values and gradients stay what they were.

    A block is then run twice a step, so what counts its own forward passes counts twice.
    Raises MetierError when the network keeps its blocks in no list of its own.
    """
    for block in blocks(network, owner):
        block.forward = functools.partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    # Without gradients nothing is kept; a cache of keys and values would be filled twice.
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
