"""The learning rate moves to its next level when the loss on `dev` has stopped falling.

For long trainings of unknown length, where nobody wants to say beforehand when to lower the rate. Not for a usual
fine-tuning: with five looks at `dev` it never fires, so give `evaluate_every`; a cosine needs no looking at all.

    after every look: if each of the last `window` losses is less than `threshold` below the one before it,
    go one level on, or, as long as less than `up_to` of the training is done, one back; then wait `cooldown` looks

Paper: 112 (its policy that changes on a plateau)
Options:
    levels: factors of the peak, from high to low.
    begin: number of the level it begins with, from 0.
    window: losses that are looked at; the first look, before training, counts.
    threshold: nats a token; a smaller gain is none.
    cooldown: looks after a move in which it stays.
    up_to: share of the training in which a plateau raises the rate, to leave a poor valley; the paper has 0.8.
Raises: MetierError without `dev`, or when there is no level `begin`.
Differs: levels are constant rates, the paper's may be policies of their own; it goes back up only when asked to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from metier.options import MetierError, Natural, NonNegative, Share

NAME = "train.schedule.plateau"
NEEDS = {"dev": "given"}
Levels = Annotated[list[Share], Field(min_length=1)]
Window = Annotated[int, Field(ge=2)]


def refuse(levels: Sequence[float], begin: int) -> None:
    if begin >= len(levels):
        raise MetierError(f"{NAME}: 'begin' must be less than {len(levels)}, the number of levels, got {begin}")


def rate(
    done: float, looks: Sequence[Sequence[float]] = (), *, levels: Levels = [1.0, 0.3, 0.1, 0.03],  # noqa: B006
    begin: Natural = 0, window: Window = 3, threshold: NonNegative = 0.002, cooldown: Natural = 2, up_to: Share = 0.0,
) -> float:  # fmt: skip
    """Factor on the learning rate; ``looks`` are [share of the training that was done, loss on dev], in order."""
    refuse(levels, begin)
    level, wait = begin, 0
    for seen in range(1, len(looks) + 1):
        losses = [loss for _, loss in looks[max(0, seen - window) : seen]]
        if wait:
            wait -= 1
        elif len(losses) == window and all(before - after < threshold for before, after in pairwise(losses)):
            level = min(max(level + (-1 if looks[seen - 1][0] < up_to else 1), 0), len(levels) - 1)
            wait = cooldown
    return levels[level]


checks = {"rate": refuse}
