"""The learning rate goes up and down, between a low one and its peak.

For searching: high stretches leave a poor valley, low ones show how good the new one is, and one run has seen many
rates. Fine-tuning a language model has few steps, and there a single fall ends lower; it also ends well by chance only,
unless a low phase comes last.

    rate(x) = low + (1 − low) · height(x) · shape(2x / period)          shape: 0 → 1 → 0 over a period

Paper: 112 (its policies TRI, SIN, UPCOS, and DTRI, DSIN, COS that start high; with 2 and EXP behind the name)
Options:
    shape: *triangle*, *sine* (its absolute value: pointed below) or *cosine* (round above and below).
    start: whether it begins *low* or *high*.
    period: from one low to the next, as a share of the training.
    low: the lowest rate, as a share of the peak.
    height: of the peaks: the *same*, *halved* with every period, or what is left of it at the end of a steady fall.
Differs: lengths are shares of the training where the paper counts steps; its length is half a period.
"""

from __future__ import annotations

from typing import Literal

from metier.options import Share
from metier.train.schedule._policies import Fraction, Height, Knobs, fading, value

NAMES = {
    ("triangle", "low"): "TRI", ("triangle", "high"): "DTRI", ("sine", "low"): "SIN", ("sine", "high"): "DSIN",
    ("cosine", "low"): "UPCOS", ("cosine", "high"): "COS",
}  # fmt: skip


def rate(
    done: float, *, shape: Literal["triangle", "sine", "cosine"] = "triangle", start: Literal["low", "high"] = "low",
    period: Fraction = 0.25, low: Share = 0.1, height: Height = "same",
) -> float:  # fmt: skip
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    name, decay = fading(NAMES[shape, start], height)
    return value(name, done, Knobs(low=low, high=1.0, length=period / 2, decay=decay))
