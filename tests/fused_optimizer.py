"""An optimizer that owns the backward pass and moves weights inside it."""

import torch

NEEDS = {"max_grad_norm": 0, "gradient_accumulation": 1, "edit": "none"}


class Fused(torch.optim.SGD):
    def step(self, closure=None): ...


def optimizer(groups, *, lr=0.1):
    made = Fused(groups, lr=lr)
    for group in made.param_groups:
        for p in group["params"]:

            def move(p, group=group):
                with torch.no_grad():
                    p.sub_(group["lr"] * p.grad)
                p.grad = None

            p.register_post_accumulate_grad_hook(move)
    return made


def backward(optimizer, loss):
    loss.backward()
