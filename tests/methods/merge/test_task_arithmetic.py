"""The changes of the experts are added with one strength; a negative one takes an expert's change away."""

from __future__ import annotations

import torch

from metier.compose.merge import linear, task_arithmetic

BASE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
EXPERTS = {
    "law": BASE + torch.tensor([[1.0, 0.0], [0.0, -2.0]]),
    "medicine": BASE + torch.tensor([[1.0, 4.0], [0.0, 2.0]]),
}


def test_the_changes_add_up() -> None:
    made = task_arithmetic.merge(BASE, EXPERTS, None, scale=0.5)  # type: ignore[arg-type]
    assert torch.equal(made, BASE + torch.tensor([[1.0, 2.0], [0.0, 0.0]]))


def test_one_over_n_is_the_average_and_zero_the_base() -> None:
    average = linear.merge(BASE, EXPERTS, None)  # type: ignore[arg-type]
    assert torch.allclose(task_arithmetic.merge(BASE, EXPERTS, None, scale=0.5), average)  # type: ignore[arg-type]
    assert torch.equal(task_arithmetic.merge(BASE, EXPERTS, None, scale=0.0), BASE)  # type: ignore[arg-type]


def test_what_was_added_can_be_taken_away() -> None:
    law = {"law": EXPERTS["law"]}
    there = task_arithmetic.merge(BASE, law, None, scale=1.0)  # type: ignore[arg-type]
    back = task_arithmetic.merge(there, {"law": there + (EXPERTS["law"] - BASE)}, None, scale=-1.0)  # type: ignore[arg-type]
    assert torch.equal(there, EXPERTS["law"]) and torch.equal(back, BASE)
