"""Bottleneck adapters: small non-linear networks beside chosen matrices, the rest frozen.

For comparing kinds and places of adapters, and where a change should not be linear in the input. `lora` is the choice
where the result is to be a plain folder, or as fast as the model without it: a bottleneck cannot be folded into the
matrix, so it costs time with every token, and only metier opens the result (a folder of the small networks and the name
of the model below). `series_adapter` and `parallel_adapter` are the two families as their papers place them.

    f(u) = scale · up · act(down · dropout(u)),   down [size, in], up [out, size], no biases
    input:     y = W(x + f(x))
    output:    h = Wx;  y = h + f(h)
    parallel:  y = Wx + f(x)

Trained are size · (in + out) numbers a matrix, where in and out are those of f.

Paper: 110
Options:
    place: where f stands.
    targets: names of the matrices; every one but the output head when not given.
    size: width in the middle.
    act: what makes it non-linear; with *identity* in parallel and scale alpha / rank it is LoRA.
    dropout: share of the inputs of f dropped in training.
    start: *zero* begins at the model as it is; *noise* draws both matrices around zero (the paper's "bert"), so that
        the model is another one before the first step.
    scale: strength of f.
Raises: MetierError when no matrix has such a name, or the model has other bottlenecks.
Differs: only matrices are adapted, found by the last part of their name; an adapter of peft that the model carries is
    folded in first. f is computed in float32 but under bfloat16 precision, where all of the network computes so. The
    paper's learned scale is left out.
"""

from __future__ import annotations

from metier.lm.bottleneck import Act, Place
from metier.options import Count, Positive
from metier.train.parameters import _bottleneck, _peft
from metier.train.parameters._bottleneck import Dropout, Start
from metier.train.setup import Network, Trainable

EXAMPLE = {"size": 4}


def prepare(
    network: Network, *, place: Place = "parallel", targets: list[str] | None = None, size: Count = 256,
    act: Act = "tanh", dropout: Dropout = 0.0, start: Start = "zero", scale: Positive = 1.0,
) -> Trainable:  # fmt: skip
    """Hangs them on the matrices, or goes on with those the model has if they are the same."""
    network = _bottleneck.folded(network)
    names = _peft.linear_names(network.module) if targets is None else targets
    return _bottleneck.prepare(
        "train.parameters.bottleneck", network, dict.fromkeys(names, place), size=size, act=act, dropout=dropout,
        start=start, scale=scale,
    )  # fmt: skip
