"""Preferences with a bound: the two replies are to differ by a fixed amount, and no further.

Where pairs are few or always agree: `dpo` is never content with a pair and drives the worse reply's probability to
nothing, this stops at a distance. In the loop `train.loop.prefer`. Slower than `dpo` where the pairs are plenty and a
strong change is wanted.

    h = log π(y_w) / π₀(y_w) − log π(y_l) / π₀(y_l)       L = (h − 1 / (2 β))²,     the mean over the records of a step

A record counts by its column `weight` (1 without one).

Paper: 'A General Theoretical Paradigm to Understand Learning from Human Preferences', Azar et al., 2024.
Options:
    beta: β; the distance is 1 / (2 β).
    over: whether h sums log-probabilities or takes each reply's *mean* over its tokens, so that long replies are not
        wanted further apart.
Raises: MetierError when the loop reads one reply a record.
Differs: *mean* is what TRL does and its authors had confirmed; the paper's formula is *sum*.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from metier.options import Positive
from metier.train.batches import Batch
from metier.train.objective import _pairs

NEEDS = {"replies": 2}


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, beta: Positive = 0.1,
    over: Literal["mean", "sum"] = "mean",
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean: a scalar."""

    def compare(sums: Tensor, tokens: Tensor) -> Tensor:
        found = _pairs.gain(sums, batch, memory)
        better, worse = (_pairs.means(found, tokens) if over == "mean" else found).unbind(1)
        return (better - worse - 1 / (2 * beta)).square()

    return _pairs.loss(model, batch, compare)


def start(model: nn.Module, data: Iterator[Batch]) -> dict[str, Tensor]:
    return {"reference": _pairs.reference(model, data)}
