"""Distillation: the student learns the teacher's whole distribution over the next word.

For a small model that is to speak like a large one of the same vocabulary, and, with no teacher named, for staying near
one's own start while something new is learnt. The teacher says more than the data: how likely every other word would
have been. It costs a forward pass of the teacher in every step and its memory. Not for a teacher that only writes text
(let it answer, then `cross_entropy`), nor where it is wrong or too sure of itself (`first`, `logit_swap`).

    L = α · T² · KL(p ‖ λ p + (1 − λ) q) + (1 − α) · CE,   p = softmax(u / T) of the teacher, q = softmax(s / T)

a weighted mean over the supervised tokens of a step. With λ above 0 the divergence stays finite where the student gives
next to nothing to a word of the teacher's, and its gradient small.

Paper: 91 (its baseline, distillation from all logits)
Options:
    teacher: the model that is learnt from; nothing means the student as it is at the start.
    temperature: T; above 1 the unlikely words count for more.
    alpha: share of the divergence beside the cross entropy of the data; 1 leaves the data out.
    skew: λ, the teacher's share in what it is compared with.
Raises: MetierError when the teacher's vocabulary is not the student's.
Differs: the mean is over tokens. Logits beyond the vocabulary, which only fill up a matrix, are left out of p and q, so
    that two sizes of one family fit. The skewed divergence is that of Ko et al., DistiLLM, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Model
from metier.lm import loss as lm_loss
from metier.options import Positive, Share
from metier.train import teacher as teaching
from metier.train.batches import Batch
from metier.train.objective import _divergence

NAME = "train.objective.distill"
Part = Annotated[float, Field(ge=0, lt=1)]


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Any], *, teacher: Model | None = None,
    temperature: Positive = 1.0, alpha: Share = 1.0, skew: Part = 0.0,
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean, in nats per token: a scalar."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    seen = memory["teacher"].read(batch)

    def each(logits: Tensor, part: slice) -> Tensor:
        taught = teaching.logits(seen, part).float()[:, : memory["words"]]
        found = alpha * distance(taught, logits[:, : memory["words"]], temperature, skew)
        if alpha < 1:
            found = found + (1 - alpha) * cross_entropy(logits, picked.labels[part], reduction="none")
        return found

    return _divergence.summed(picked, each, batch.weights(picked.rows)) / max(batch.weight_in_step, 1e-9)


def start(
    model: nn.Module, data: Iterator[Batch], tokenizer: PreTrainedTokenizerBase, teacher: Model | None = None
) -> dict[str, Any]:
    return {"teacher": teaching.of(model, tokenizer, teacher, NAME), "words": _divergence.words(tokenizer)}


def distance(taught: Tensor, logits: Tensor, temperature: float, skew: float = 0.0) -> Tensor:
    """T² · KL(p ‖ λ p + (1 − λ) q) of logits [n, words], in nats: [n]."""
    logp, logq = log_softmax(taught / temperature, -1), log_softmax(logits / temperature, -1)
    if skew:
        logq = torch.logaddexp(logp + math.log(skew), logq + math.log1p(-skew))
    return temperature**2 * _divergence.kl(logp.exp(), logq)
