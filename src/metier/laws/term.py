"""Laws of terms: how a step is cut changes nothing, and they are finite with a gradient."""

from __future__ import annotations

import torch

from metier.laws._training import Examined, cutting_changes_nothing
from metier.laws.case import Case


def cutting_a_step_changes_nothing(case: Case) -> None:
    examined = _moved(case)
    cutting_changes_nothing(examined)


def it_pulls(case: Case) -> None:
    examined = _moved(case)
    assert examined.value(examined.batch(examined.window)).requires_grad, "no weight feels it"
    value, gradient = examined.gradient([examined.window])
    assert torch.isfinite(torch.tensor(value)), value
    assert any(bool((g != 0).any()) for g in gradient.values()), "no weight feels it"


def _moved(case: Case) -> Examined:
    """Away from the start, where most terms are at rest."""
    examined = Examined(case)
    with torch.no_grad():
        for parameter in examined.network.parameters():
            parameter.add_(0.01)
    return examined
