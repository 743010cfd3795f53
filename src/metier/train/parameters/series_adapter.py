"""Series adapters: a bottleneck in the way of what flows through the feed-forward part.

The oldest adapters of language models; most of what was tried since beats them a little. For comparisons, and after the
feed-forward part, where they do best. Every token passes them one after the other, so they slow the model down more
than parallel ones.

    houlsby:   gate, up:  y = W(x + f(x));   down:  h = Wx;  y = h + f(h)
    pfeiffer:  down:      h = Wx;  y = h + f(h)

with f as in `bottleneck`.

Paper: 110 (its AdapterH and AdapterP)
Options:
    variant: *houlsby* before and after the feed-forward part, *pfeiffer* after it only.
    size: width in the middle.
    act: what makes it non-linear.
    dropout: share of the inputs of f dropped in training.
    start: *zero* begins at the model as it is, *noise* at another one (the paper's "bert").
    scale: strength of f.
Raises: MetierError for an architecture whose feed-forward part has other names, or a model with other bottlenecks.
Differs: as `bottleneck`.
"""

from __future__ import annotations

from typing import Literal

from metier.lm.bottleneck import Act, Place
from metier.options import Count, Positive
from metier.train.parameters import _bottleneck
from metier.train.parameters._bottleneck import INTO, OUT_OF, Dropout, Start
from metier.train.setup import Network, Trainable

NAME = "train.parameters.series_adapter"
EXAMPLE = {"size": 4}


def prepare(
    network: Network, *, variant: Literal["houlsby", "pfeiffer"] = "houlsby", size: Count = 256, act: Act = "tanh",
    dropout: Dropout = 0.0, start: Start = "zero", scale: Positive = 1.0,
) -> Trainable:  # fmt: skip
    """Hangs them on the feed-forward parts, or goes on with those the model has if they are the same."""
    network = _bottleneck.folded(network)
    places: dict[str, Place] = dict.fromkeys(_bottleneck.known(NAME, network.module, OUT_OF), "output")
    if variant == "houlsby":
        places |= dict.fromkeys(_bottleneck.known(NAME, network.module, INTO), "input")
    return _bottleneck.prepare(
        NAME, network, places, size=size, act=act, dropout=dropout, start=start, scale=scale
    )  # fmt: skip
