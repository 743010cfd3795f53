"""Adds what each expert has learnt to the base; a negative strength takes it away.

For several specialists of one base in one model, when no single share per expert has been measured: one number to
tune on dev data. At a strength of 1 / n it is their average; above, each keeps more of what it can and they disturb
each other more. A negative strength makes a model forget an expert's field. Where experts pull in opposite directions,
a merge that settles the conflict is better.

    θ = θ₀ + scale · Σₖ (θₖ − θ₀)

Paper: 'Editing models with task arithmetic', Ilharco et al., 2023.
Options:
    scale: strength of every expert's change.
"""

from __future__ import annotations

from torch import Tensor

from metier.compose.merge import linear
from metier.compose.tensors import Here
from metier.options import Real


def merge(base: Tensor, experts: dict[str, Tensor], here: Here, *, scale: Real = 0.4) -> Tensor:
    return linear.merge(base, experts, here, weights=dict.fromkeys(experts, scale))
