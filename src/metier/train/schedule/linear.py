"""The learning rate falls in a straight line, after an optional warm-up.

The simplest decay; as good as a cosine in short runs.

    rate(x) = x / warmup                                         for x < warmup
    rate(x) = floor + (1 − floor)·(1 − x) / (1 − warmup)         afterwards

Options:
    warmup: share of the training in which the rate rises from 0.
    floor: what is left of the rate at the end, as a share of the peak.
"""

from __future__ import annotations

from metier.options import Share


def rate(done: float, *, warmup: Share = 0.0, floor: Share = 0.0) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * (1 - done) / max(1 - warmup, 1e-12)
