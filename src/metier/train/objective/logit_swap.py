"""Self-distillation with the right word on top: near the start everywhere else.

For continued pre-training that is to forget less: the model as it was at the start is the teacher, but where it would
have said another word than the text, its two logits change places. All that it knew of the other words stays, the
entropy too. Plain distillation from the start (`distill`) pulls towards the old, wrong word instead. It costs a second
forward pass, or, with `top`, memory of 8 · top bytes for every token. Not where the model should become surer than it
was: its entropy is what the loss asks for.

    u′ = u with u_y and u_m swapped, m = argmax u      LSSD = T² · KL(softmax(u′ / T) ‖ softmax(s / T))
    sum: L = CE + α · LSSD            replace: L = LSSD

a weighted mean over the supervised tokens of a step; y is the right word, s the student's logits.

Paper: 97
Options:
    teacher: whose logits are swapped; nothing means the model as it is at the start.
    alpha: weight of the distillation beside the cross entropy; of no use with `replace`.
    temperature: T, of both sides.
    mode: *sum* adds it to the cross entropy, *replace* leaves that out.
    top: the likeliest words after the swap, whose probabilities are noted once at the start instead of in every step;
        the rest is one word more. All words when not given.
Raises: MetierError when the teacher's vocabulary is not the student's, or has fewer words than `top`.
Differs: whether the paper keeps the cross entropy is not known, so both modes are here; 0.3 is from a third party's
    code. The mean is over supervised tokens (that code divides by the sequences of a batch). `top` takes the rest
    as one word; the paper has no such shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Model
from metier.lm import loss as lm_loss
from metier.options import Count, MetierError, Positive, Share
from metier.train import teacher as teaching
from metier.train.batches import Batch
from metier.train.objective import _divergence, _stored

NAME = "train.objective.logit_swap"


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Any], *, teacher: Model | None = None, alpha: Share = 0.3,
    temperature: Positive = 1.0, mode: Literal["sum", "replace"] = "sum", top: Count | None = None,
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean, in nats per token: a scalar."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    compare = _noted(memory, batch) if top else _asked(memory, batch, picked.labels, temperature)

    def each(logits: Tensor, part: slice) -> Tensor:
        distance = temperature**2 * compare(logits[:, : memory["words"]] / temperature, part)
        if mode == "replace":
            return distance
        return cross_entropy(logits, picked.labels[part], reduction="none") + alpha * distance

    return _divergence.summed(picked, each, batch.weights(picked.rows)) / max(batch.weight_in_step, 1e-9)


def start(
    model: nn.Module, data: Iterator[Batch], tokenizer: PreTrainedTokenizerBase, teacher: Model | None = None,
    top: Count | None = None, temperature: Positive = 1.0,
) -> dict[str, Any]:  # fmt: skip
    words = _divergence.words(tokenizer)
    taught = teaching.of(model, tokenizer, teacher, NAME)
    if top is None:
        return {"teacher": taught, "words": words}
    if top > words:
        raise MetierError(f"{NAME}: 'top' must be at most {words}, the words of the model, got {top}")
    spans: _stored.Spans = {}
    ids: list[Tensor] = []
    p: list[Tensor] = []
    for batch in data:
        seen, done = taught.read(batch), sum(len(chunk) for chunk in ids)
        for number, (columns, _) in zip(batch.numbers.tolist(), _stored.learnt(batch), strict=True):
            spans[number] = (done, columns)
            done += len(columns)
        for part in _divergence.chunks(seen):
            whole = softmax(swap(teaching.logits(seen, part).float()[:, :words], seen.labels[part]) / temperature, -1)
            best = whole.topk(top)
            p.append(best.values)
            ids.append(best.indices.int())
    return {"spans": spans, "ids": torch.cat(ids), "p": torch.cat(p), "words": words}


def swap(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of the right word and the largest one change places: [n, words], ``labels`` [n] without −100."""
    right, most = labels[:, None], logits.argmax(-1, keepdim=True)
    return logits.scatter(-1, right, logits.gather(-1, most)).scatter(-1, most, logits.gather(-1, right))


def _asked(
    memory: dict[str, Any], batch: Batch, labels: Tensor, temperature: float
) -> Callable[[Tensor, slice], Tensor]:
    """KL of the student's logits / T [chunk, words] from the teacher's, which reads the batch now: [chunk]."""
    seen = memory["teacher"].read(batch)

    def compare(logits: Tensor, part: slice) -> Tensor:
        swapped = swap(teaching.logits(seen, part).float()[:, : memory["words"]], labels[part])
        return _divergence.kl(softmax(swapped / temperature, -1), log_softmax(logits, -1))

    return compare


def _noted(memory: dict[str, Any], batch: Batch) -> Callable[[Tensor, slice], Tensor]:
    """The same from what was noted of the teacher at the start."""
    at = _stored.places(memory["spans"], batch)

    def compare(logits: Tensor, part: slice) -> Tensor:
        p, ids = memory["p"][at[part]], memory["ids"][at[part]].long()
        return _divergence.kl(_divergence.with_rest(p), _divergence.likely(logits, ids))

    return compare
