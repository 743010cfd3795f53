"""The learning rate rises, stays at its peak, and falls in a straight line at the end.

For trainings whose length is not fixed: the stable part can go on from any checkpoint, and only the last fall is done
anew. As good as a cosine when the fall is a tenth to a third of the training; until then the loss looks worse.

    rate(x) = x / warmup   up to warmup;   1;   floor + (1 − floor)·(1 − x) / decay   in the last share decay

Paper: 112 (beside its policies, a default of today: Hu et al., MiniCPM, 2024)
Options:
    warmup: share of the training in which the rate rises from 0.
    decay: share of the training, at its end, in which it falls.
    floor: what is left of the rate at the end, as a share of the peak.
Raises: MetierError when warm-up and decay are longer than the training.
"""

from __future__ import annotations

from metier.options import MetierError, Share

NAME = "train.schedule.warmup_stable_decay"


def refuse(warmup: float, decay: float) -> None:
    if warmup + decay > 1:
        raise MetierError(f"{NAME}: 'warmup' and 'decay' must be at most 1 together, got {warmup:g} and {decay:g}")


def rate(done: float, *, warmup: Share = 0.05, decay: Share = 0.2, floor: Share = 0.0) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind."""
    refuse(warmup, decay)
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * min(1.0, (1 - done) / max(decay, 1e-12))


checks = {"rate": refuse}
