"""The learning rate falls again and again, and jumps back up each time.

Each fall ends in a model that could be kept: many good checkpoints of one long run, for an average or a vote. Too
expensive for a short fine-tuning, whose steps are better spent on one fall.

    rate(x) = low + (1 − low) · height(x) · shape(s)          s falls from 1 to 0 in every period

Paper: 112 (its policies RSW, SINRSW and COSRSW; with 2 and EXP behind the name)
Options:
    shape: of a fall: a *line*, or half a *cosine*, which stays high and lands softly, or a quarter *sine*.
    period: between two jumps, as a share of the training.
    low: the lowest rate, as a share of the peak.
    height: of the jumps: the *same*, *halved* each time, or what is left of it at the end of a steady fall.
    fix_restart: the step of a jump has the high rate; in the paper's code it has the low one, the next one the high.
Differs: lengths are shares of the training where the paper counts steps.
"""

from __future__ import annotations

from typing import Literal

from metier.options import Share
from metier.train.schedule._policies import Fraction, Height, Knobs, fading, value

NAMES = {"line": "RSW", "sine": "SINRSW", "cosine": "COSRSW"}


def rate(
    done: float, *, shape: Literal["line", "sine", "cosine"] = "cosine", period: Fraction = 0.25, low: Share = 0.0,
    height: Height = "same", fix_restart: bool = True,
) -> float:  # fmt: skip
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    name, decay = fading(NAMES[shape], height)
    return value(name, done, Knobs(low=low, high=1.0, length=period, decay=decay, fix_restart=fix_restart))
