"""The learning rate rises in a warm-up, then falls along half a cosine.

The usual choice: the rate stays high for long and lands softly. Not when training may have to stop early.

    rate(x) = x / warmup                                                        for x < warmup
    rate(x) = floor + (1 − floor)·(1 + cos(π·(x − warmup) / (1 − warmup))) / 2    afterwards

Paper: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017 (one half period).
Options:
    warmup: share of the training in which the rate rises from 0.
    floor: what is left of the rate at the end, as a share of the peak.
"""

from __future__ import annotations

import math

from metier.options import Share


def rate(done: float, *, warmup: Share = 0.05, floor: Share = 0.0) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-12))) / 2
