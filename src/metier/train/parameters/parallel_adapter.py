"""Parallel adapters: a bottleneck beside each matrix, added to what the matrix gives.

The strongest of the bottlenecks in most comparisons, about as good as LoRA; take `lora` unless you want to compare, for
a bottleneck cannot be folded into the matrix.

    y = Wx + f(x)        with f as in `bottleneck`

Paper: 110
Options:
    where: the matrices of the feed-forward part (*mlp*, where the paper finds them best), of queries, keys and values
        (*attention*, what its code does by default), or *both*.
    size: width in the middle.
    act: what makes it non-linear.
    dropout: share of the inputs of f dropped in training.
    start: *zero* begins at the model as it is, *noise* at another one (the paper's "bert").
    scale: strength of f.
Raises: MetierError for an architecture whose matrices have other names, or a model with other bottlenecks.
Differs: as `bottleneck`.
"""

from __future__ import annotations

from typing import Literal

from metier.lm.bottleneck import Act
from metier.options import Count, Positive
from metier.train.parameters import _bottleneck
from metier.train.parameters._bottleneck import ATTENTION, INTO, OUT_OF, Dropout, Start
from metier.train.setup import Network, Trainable

NAME = "train.parameters.parallel_adapter"
EXAMPLE = {"size": 4}
WHERE = {"mlp": (INTO, OUT_OF), "attention": (ATTENTION,), "both": (ATTENTION, INTO, OUT_OF)}


def prepare(
    network: Network, *, where: Literal["mlp", "attention", "both"] = "mlp", size: Count = 256, act: Act = "tanh",
    dropout: Dropout = 0.0, start: Start = "zero", scale: Positive = 1.0,
) -> Trainable:  # fmt: skip
    """Hangs them on the matrices, or goes on with those the model has if they are the same."""
    network = _bottleneck.folded(network)
    names = _bottleneck.known(NAME, network.module, *WHERE[where])
    return _bottleneck.prepare(
        NAME, network, dict.fromkeys(names, "parallel"), size=size, act=act, dropout=dropout, start=start, scale=scale
    )  # fmt: skip
