"""Direct preference optimisation: the better of two replies gains on the worse one.

For teaching which of two answers is wanted (tone, form, caution) where no single right one can be written down, after
`train.loop.sft` has taught how to answer at all; in the loop `train.loop.prefer`. The model as it is at the start
holds it: only what has changed since counts. Not for new knowledge, nor for few pairs of which many are wrong (raise
`smoothing`, or take `ipo`). The better replies may become less likely too, as long as the worse ones fall further:
`sft` keeps them up.

    h = log π(y_w) / π₀(y_w) − log π(y_l) / π₀(y_l)
    L = −(1 − ε) log σ(β h) − ε log σ(−β h) + sft · CE(y_w),     the mean over the records of a step

log π is the sum over a reply's tokens, its end included; CE is the mean over them. A record counts by its column
`weight` (1 without one).

Paper: 'Direct Preference Optimization: Your Language Model is Secretly a Reward Model', Rafailov et al., 2023.
Options:
    beta: β; small values let the model go further from its start.
    smoothing: ε, the share of pairs that are the wrong way round (conservative DPO).
    sft: weight of the cross entropy of the better reply.
    weigh: *equally*, or a pair by the *margin* of its two scores over the mean margin.
Raises: MetierError when the loop reads one reply a record.
Differs: π₀ is read once, before the first step and without dropout, instead of a second model being held. The mean
    divides by records whatever their weights are. With `sft`, the cross entropy is a mean of every record's own; TRL's
    `sft` loss is the mean over all tokens of a batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from metier.options import NonNegative, Positive
from metier.train.batches import Batch
from metier.train.objective import _pairs

NEEDS = {"replies": 2}
FIELDS = {"scores": "scores"}
Flipped = Annotated[float, Field(ge=0, lt=0.5)]


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, beta: Positive = 0.1, smoothing: Flipped = 0.0,
    sft: NonNegative = 0.0, weigh: Literal["equally", "margin"] = "equally",
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean: a scalar."""

    def compare(sums: Tensor, tokens: Tensor) -> Tensor:
        better, worse = _pairs.gain(sums, batch, memory).unbind(1)
        found = surprise(beta * (better - worse), smoothing) - sft * _pairs.means(sums, tokens)[:, 0]
        return found * memory["margin"][batch.numbers] if weigh == "margin" else found

    return _pairs.loss(model, batch, compare)


def start(model: nn.Module, data: Iterator[Batch]) -> dict[str, Tensor]:
    """``reference`` [all, 2], and the ``margin`` of every record's scores over their mean [all]."""
    margins: dict[int, float] = {}

    def noted() -> Iterator[Batch]:
        for batch in data:
            for number, scores in zip(batch.numbers.tolist(), batch.fields["scores"], strict=True):
                given = [score for score in scores if score is not None]
                margins[number] = max(given) - min(given)
            yield batch

    reference = _pairs.reference(model, noted())
    margin = reference.new_zeros(len(reference))
    margin[list(margins)] = reference.new_tensor(list(margins.values())) / statistics.fmean(margins.values())
    return {"reference": reference, "margin": margin}


def surprise(h: Tensor, smoothing: float) -> Tensor:
    """−log σ(h) where a share ``smoothing`` of the pairs is the wrong way round: [records]."""
    return -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)
