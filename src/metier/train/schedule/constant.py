"""The learning rate stays as it is, after an optional warm-up.

For probes and short runs, or when training may be continued later. A decaying schedule usually ends lower.

    rate(x) = min(1, x / warmup)

Options:
    warmup: share of the training in which the rate rises from 0.
"""

from __future__ import annotations

from metier.options import Share


def rate(done: float, *, warmup: Share = 0.0) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    return min(1.0, done / warmup) if warmup > 0 else 1.0
