"""The learning rate falls from high to nothing along an S, around a place of your choice.

A stair with round edges. Turned round (`steep` below 0) it is a slow warm-up that stays up, for weights that are new.

    rate(x) = 1 / (1 + exp(steep · (x − middle)))

Paper: 112 (its policy SIG)
Options:
    steep: how fast it falls; around 10 it takes most of the training, at 100 it is a stair; below 0 it rises.
    middle: share of the training at which it is half its peak.
Differs: the paper's rises where this one falls, since a training should end low.
"""

from __future__ import annotations

from metier.options import Real, Share
from metier.train.schedule._policies import Knobs, value


def rate(done: float, *, steep: Real = 12.0, middle: Share = 0.5) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    return value("SIG", done, Knobs(low=1.0, decay=-steep, length=middle))
