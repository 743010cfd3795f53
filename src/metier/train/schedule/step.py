"""The learning rate falls in stairs, at even distances or at places of your own.

The classic of image networks, and what one does by hand when progress stalls: a high plateau, then finer ones. For
language models a smooth fall ends as low and asks for no places.

    rate(x) = part ^ (number of stairs at or before x)

Paper: 112 (its policies STEP and NSTEP)
Options:
    part: what a stair leaves of the rate.
    at: a share of the training, after each of which there is a stair; or the places of all stairs, as shares.
Differs: places are shares of the training where the paper counts steps, so that a longer one keeps its shape.
"""

from __future__ import annotations

from metier.options import Share
from metier.train.schedule._policies import Fraction, Knobs, value


def rate(done: float, *, part: Fraction = 0.1, at: Fraction | list[Share] = 0.5) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    if isinstance(at, list):
        return value("NSTEP", done, Knobs(low=1.0, decay=part, bounds=at))
    return value("STEP", done, Knobs(low=1.0, decay=part, length=at))
