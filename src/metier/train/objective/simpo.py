"""Preferences without a reference: the better reply is likelier per token, by a margin.

For pairs whose replies differ in length, and where reading the start once would already be too much: what is compared
is how likely each reply is per token, the very thing decoding goes by. Nothing holds the model to its start, so it
forgets more than with `dpo` at the same learning rate: train short, and watch general skills. In the loop
`train.loop.prefer`.

    L = −log σ(β · (log π(y_w) / |y_w| − log π(y_l) / |y_l|) − γ),     the mean over the records of a step

|y| counts tokens, the end of the reply included. A record counts by its column `weight` (1 without one).

Paper: 'SimPO: Simple Preference Optimization with a Reference-Free Reward', Meng et al., 2024.
Options:
    beta: β; the paper takes 2 to 10.
    gamma: γ, the margin; the paper takes 0.3 to 1.6 times β.
Raises: MetierError when the loop reads one reply a record.
Differs: nothing known.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from metier.options import NonNegative, Positive
from metier.train.batches import Batch
from metier.train.objective import _pairs

NEEDS = {"replies": 2}


def loss(model: nn.Module, batch: Batch, *, beta: Positive = 2.0, gamma: NonNegative = 1.0) -> Tensor:
    """The batch's part of the step's mean: a scalar."""

    def compare(sums: Tensor, tokens: Tensor) -> Tensor:
        better, worse = _pairs.means(sums, tokens).unbind(1)
        return -logsigmoid(beta * (better - worse) - gamma)

    return _pairs.loss(model, batch, compare)
