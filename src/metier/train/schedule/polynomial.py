"""The learning rate falls along a power of what is left of the training.

Power 1 is `linear`; a higher one falls sooner and lands more softly, a lower one stays high and falls at the end.

    rate(x) = (1 − floor) · (1 − x) ^ power + floor

Paper: 112 (its policy POLY)
Options:
    power: of the share that is left.
    floor: what is left of the rate at the end, as a share of the peak.
Differs: its length is the training.
"""

from __future__ import annotations

from metier.options import Positive, Share
from metier.train.schedule._policies import Knobs, value


def rate(done: float, *, power: Positive = 2.0, floor: Share = 0.0) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    return value("POLY", done, Knobs(low=floor, high=1.0, power=power, length=1.0))
