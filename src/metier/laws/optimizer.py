"""Laws of optimizers: down a quadratic, still at rate 0, the same next step from a saved state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metier.laws.case import Case
from metier.train import checkpoint

STEPS = 60
GOAL = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def a_quadratic_goes_down(case: Case) -> None:
    weight, step = _quadratic(case, lr=0.1)
    first = step()
    for _ in range(STEPS):
        last = step()
    assert last < first / 10, f"from {first:.4f} to {last:.4f} in {STEPS} steps"
    assert torch.isfinite(weight).all()


def rate_zero_moves_nothing(case: Case) -> None:
    weight, step = _quadratic(case, lr=0.0)
    before = weight.detach().clone()
    for _ in range(3):
        step()
    assert torch.equal(weight, before)


def a_saved_state_goes_on_the_same(case: Case) -> None:
    weight, step = _quadratic(case, lr=0.05)
    for _ in range(3):
        step()
    tensors, plain = checkpoint.flat(step.optimizer)
    other, again = _quadratic(case, lr=0.05)
    with torch.no_grad():
        other.copy_(weight)
    checkpoint.restore(again.optimizer, {k: t.clone() for k, t in tensors.items()}, plain)
    step()
    again()
    assert torch.equal(weight, other), "another step after the state came back"


class _Step:
    """One step towards the goal; returns the loss before it."""

    def __init__(self, case: Case, weight: nn.Parameter, lr: float) -> None:
        self.case, self.weight = case, weight
        self.optimizer = case.bound(lr=lr)([{"params": [weight]}])

    def __call__(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = ((self.weight - GOAL) ** 2).sum()
        backward = getattr(self.case.file, "backward", None)
        if backward is not None:
            backward(self.optimizer, loss)
        else:
            loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _quadratic(case: Case, lr: float) -> tuple[nn.Parameter, _Step]:
    weight = nn.Parameter(torch.zeros(2, 3))
    return weight, _Step(case, weight, lr)
