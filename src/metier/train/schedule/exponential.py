"""The learning rate falls by the same part in every step, to what is to be left at the end.

It falls fastest in the beginning: half of the way in logarithms is half of the training. For long trainings whose scale
of a good rate is not known; a cosine stays near its peak for longer and usually ends lower in the same steps.

    rate(x) = end ^ x

Paper: 112 (its policy EXP)
Options:
    end: what is left of the rate at the end, as a share of the peak.
Differs: the paper's decay is per step, which vanishes at once when it is too small; here it follows from the end.
"""

from __future__ import annotations

from metier.train.schedule._policies import Fraction, Knobs, value


def rate(done: float, *, end: Fraction = 0.01) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    return value("EXP", done, Knobs(low=1.0, decay=end))
