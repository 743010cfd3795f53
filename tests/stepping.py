"""A step of a training by hand, in the order of train/run.py, to see what a method does in between."""

from __future__ import annotations

import torch

from metier.train.setup import Clock


def step(made, optimizer, number=0, *, epoch=0, scale=1.0, optimize=True):
    """Returns the gradients as the optimizer gets them."""
    module = made.network.module
    optimizer.zero_grad(set_to_none=True)
    ids = (torch.arange(24)[None] * (number + 3) + 7 * torch.arange(2)[:, None]) % 40
    (module(input_ids=ids, labels=ids).loss * scale).backward()
    clock = Clock(number, 10, epoch, 0, 1, optimizer)
    if made.edit:
        made.edit(clock)
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    if optimize:
        optimizer.step()
        if made.after_step:
            made.after_step(clock)
    return gradients


def weights(made):
    return {n: p.detach().clone() for n, p in made.network.module.named_parameters()}
