"""Token-adaptive reweighting: words that the model finds improbable count less.

For a field learnt without general data to replay: a few hard tokens carry most of the damage to what a model could
before, and they are held back until they have become likely. A lower learning rate is the first remedy; where it may
not fall, or does not suffice, this softens the rest. Not for teaching new facts quickly, since those are the tokens it
holds back: compare at an equal score in the field, not only after equal steps.

    w_t = max( exp(−l_t / tau), floor ),  a constant;    L = Σ w_t l_t / n
    tau = median over sequences of their mean token loss, at least 1e-6

The weights are those that minimise Σ w l − tau · entropy(w) over all w that sum to 1, but for their sum. A large tau is
cross entropy. As training goes on tau falls, and what was hard comes in.

Paper: 8
Options:
    tau: the temperature: of the *recent* sequences of finished steps, of the sequences of the *batch*, or a number.
    window: recent sequences that are looked at.
    floor: least weight of a token.
    normalise: what a step's sum is divided by: its *tokens*, its *weights*, or each sequence's tokens and then the
        number of *sequences*.
Raises: MetierError, before training, when a step is cut or has several processes, though `tau` is *batch* or
    `normalise` *weights*: these need it whole.
Differs: the paper takes the median of the batch, which another cut would change; sequences of finished steps give
    the same tau however a step is cut, some steps late. Before the first step as many records are looked at once.
    Whether the paper divides by tokens or by weights is not known. Rows of packed texts count as one sequence each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metier.lm import loss as lm_loss
from metier.options import Count, Positive, Share
from metier.train.batches import Batch

LEAST = 1e-6  # temperature
WHOLE = {"gradient_accumulation": 1, "processes": 1}
Tau = Positive | Literal["recent", "batch"]


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, tau: Tau = "recent", window: Count = 64,
    floor: Share = 0.01, normalise: Literal["tokens", "weights", "sequences"] = "tokens",
) -> Tensor:  # fmt: skip
    """The batch's part of the step's loss, in nats: a scalar. Notes the mean ``loss`` of every sequence."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    counts = torch.bincount(picked.rows, minlength=len(batch.input_ids)).clamp(min=1)  # [batch]
    heat = temperature(picked, counts, tau, memory)
    losses = torch.zeros_like(picked.labels, dtype=torch.float32)
    given = batch.weights(picked.rows)
    scale = torch.ones_like(losses) if given is None else given
    scale = scale / counts[picked.rows] if normalise == "sequences" else scale

    def weigh(found: Tensor, part: slice) -> Tensor:
        losses[part] = found
        return weights(found, heat, floor) * scale[part]

    whole = {"tokens": batch.weight_in_step, "sequences": batch.rows_in_step, "weights": 1.0}[normalise]
    total = picked.loss(weigh, max(whole, 1e-9))
    batch.seen["loss"] = means(losses, picked.rows, counts)
    if normalise == "weights":
        total = total / max(float((weights(losses, heat, floor) * scale).sum()), 1e-9)
    return total


def start(
    model: nn.Module, data: Iterator[Batch], *, tau: Tau = "recent", window: Count = 64
) -> dict[str, Tensor]:  # fmt: skip
    """``recent`` [window, or as many as there are]: mean losses of the first sequences, under the model as it is."""
    if tau != "recent":
        return {}
    found: list[Tensor] = []
    for batch in data:
        picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
        counts = torch.bincount(picked.rows, minlength=len(batch.input_ids)).clamp(min=1)
        found.append(means(picked.per_token(), picked.rows, counts))
        if sum(map(len, found)) >= window:
            break
    return {"recent": torch.cat(found)[:window]}


def remember(memory: dict[str, Tensor], seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "recent" not in memory:
        return memory
    recent = memory["recent"]
    return {"recent": torch.cat([recent, seen["loss"].to(recent.device)])[-len(recent) :]}


def needs(options: Mapping[str, Any]) -> dict[str, Any]:
    return WHOLE if options.get("tau") == "batch" or options.get("normalise") == "weights" else {}


def temperature(
    picked: lm_loss.Supervised, counts: Tensor, tau: Tau, memory: Mapping[str, Tensor]
) -> float:  # fmt: skip
    if not isinstance(tau, str):
        return tau
    recent = memory["recent"] if tau == "recent" else means(picked.per_token(), picked.rows, counts)
    return max(float(recent.quantile(0.5)), LEAST)


def weights(losses: Tensor, tau: float, floor: float) -> Tensor:
    """max(p^(1 / tau), floor) for p = exp(−loss): [n]."""
    return torch.exp(-losses / tau).clamp(min=floor)


def means(losses: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Mean token loss of every sequence: [batch]."""
    return torch.zeros(len(counts), device=losses.device).index_add_(0, rows, losses) / counts
