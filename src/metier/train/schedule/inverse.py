"""The learning rate falls as a power of time, fast at first and then ever slower.

With power 0.5 the decay of the first Transformer. It has no end it lands on, so it suits trainings that may go on;
where the length is known, a schedule that goes to zero ends lower.

    rate(x) = (1 + speed · x) ^ −power

Paper: 112 (its policy INV)
Options:
    speed: how much of it happens within the training: the bracket goes from 1 to 1 + speed.
    power: 0.5 for the inverse square root.
Differs: time is the share of the training where the paper counts steps.
"""

from __future__ import annotations

from metier.options import Positive
from metier.train.schedule._policies import Knobs, value


def rate(done: float, *, speed: Positive = 10.0, power: Positive = 0.5) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    return value("INV", done, Knobs(low=1.0, decay=speed, power=power))
