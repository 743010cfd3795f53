"""Preferences with a margin: pairs that are far enough apart teach nothing more.

The hinge of SLiC, measured from the start of training as in `dpo`: a pair pulls with full force until its replies are
1 / β apart, and not at all from there on, so what is learnt is not overdone and hard pairs keep their say. In the loop
`train.loop.prefer`. Where many pairs are the wrong way round, they pull for ever: take `dpo` with `smoothing`.

    h = log π(y_w) / π₀(y_w) − log π(y_l) / π₀(y_l)       L = max(0, 1 − β h),     the mean over the records of a step

A record counts by its column `weight` (1 without one).

Paper: 'SLiC-HF: Sequence Likelihood Calibration with Human Feedback', Zhao et al., 2023.
Options:
    beta: β.
Raises: MetierError when the loop reads one reply a record.
Differs: SLiC-HF compares log π itself and adds a cross entropy on the better reply; log π / π₀ is from Liu et al.,
    Statistical Rejection Sampling Improves Preference Optimization, 2024, and stays near the start by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from metier.options import Positive
from metier.train.batches import Batch
from metier.train.objective import _pairs

NEEDS = {"replies": 2}


def loss(model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, beta: Positive = 0.1) -> Tensor:
    """The batch's part of the step's mean: a scalar."""

    def compare(sums: Tensor, tokens: Tensor) -> Tensor:
        better, worse = _pairs.gain(sums, batch, memory).unbind(1)
        return (1 - beta * (better - worse)).relu()

    return _pairs.loss(model, batch, compare)


def start(model: nn.Module, data: Iterator[Batch]) -> dict[str, Tensor]:
    return {"reference": _pairs.reference(model, data)}
