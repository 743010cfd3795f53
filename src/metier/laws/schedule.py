"""Laws of schedules: a factor between 0 and 1 that moves the weights somewhere on the way."""

from __future__ import annotations

import math

from metier.laws.case import Case


def a_factor_between_nothing_and_the_peak(case: Case) -> None:
    rate = case.bound()
    factors = [rate(step / 101) for step in range(1, 101)]
    assert all(math.isfinite(f) and 0 <= f <= 1 + 1e-9 for f in factors), factors
    assert max(factors) > 0.5, f"the rate never comes near its peak: {max(factors)}"
