"""Distillation from a table of the teacher's few likeliest words, made less sure.

For a small model that must be right and know when it is not: a fine-tuned teacher is too sure of what it says, and a
student learns that with the rest. `fit` notes the teacher's likeliest words once for every supervised token (they hold
nearly all of the mass, and five take a ten-thousandth of the room of all), finds how far they must be flattened on
records of their own, and the student is trained without the teacher. The records are those of the loop `sft`. With
*linear* or *softmax* nothing keeps the student's mass on these words: take *other* where it starts far from the
teacher. Not for a teacher that is calibrated already (`distill`), nor for one of another vocabulary.

    temperature: P̂(i) = exp(P(i) / c) / Σⱼ exp(P(j) / c)        smoothing: P(1) − δ, the others + δ / (k − 1); Σ = 1
    linear: Q = P_S(i) / Σⱼ P_S(j)     softmax: Q = softmax(P_S / c)     other: a last word, for all the rest, on both
    L = KL(P̂ ‖ Q), a weighted mean over the supervised tokens of a step;   P, P_S: of the softmax over all words

c is the one of 0.1, 0.2 … 1.0, then of its surroundings in steps of 0.02, whose calibration error on `dev` is least.

Paper: 91
Options:
    k: words noted for each token.
    recalibrate: how they are flattened; *none* only makes them sum to 1.
    temperature: c, when it is not to be searched for.
    smoothing: δ, as far as the likeliest word stays the likeliest.
    dev: records on which c is searched; never those of training or test.
    places: the tokens of `dev` that count in the search, the *first* of each reply (where a label or a letter is
        chosen) or *all*.
    length: longest record in tokens; the student's may be shorter.
    table: what `fit` has made of the records that are trained on.
    match: the form the student's probabilities of the noted words are brought to.
Raises: MetierError when there is no `dev` to search on, `k` is above the teacher's words, the student has other words
    than the teacher, the table lacks a record or holds other tokens of it, or *softmax* meets a table without c.
Differs: the loss is a mean over tokens, not over records. *softmax* takes the c of the table on both sides (with 1
    on the student's, it could never give a word of five more than 0.405). *other* keeps the mass that the teacher gave
    the noted words. The released code takes probabilities for logarithms with *other*, and smooths logarithms: the
    formulas above are taken instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax
from transformers import PreTrainedTokenizerBase

from metier import stats
from metier.artefacts import Model, Part, Records
from metier.disk import files_digest, json_text, text_digest, write_json
from metier.lm import load
from metier.lm import loss as lm_loss
from metier.options import MetierError, Positive, Share
from metier.store import Work
from metier.train.batches import Batch
from metier.train.objective import _divergence, _stored, _table
from metier.train.setup import Length

NAME = "train.objective.first"
EXAMPLE = {"dev": "$records"}
NEEDS = {"turns": "read"}  # the table holds tokens of replies
FINE, COARSE = 0.02, 0.1  # steps of the two searches
Words = Annotated[int, Field(ge=2)]


def fit(
    data: Records, model: Model, *, k: Words = 5,
    recalibrate: Literal["temperature", "smoothing", "none"] = "temperature", temperature: Positive | None = None,
    smoothing: Share = 0.1, dev: Records | None = None, places: Literal["first", "all"] = "first",
    length: Length = 512, work: Work,
) -> Part:  # fmt: skip
    """The teacher's table. Notes: c, coverage (mass of the noted words), and ece on `dev` before and after."""
    if recalibrate == "temperature" and temperature is None and dev is None:
        raise MetierError(f"{NAME}: needs 'dev', on which the temperature is searched, or a 'temperature'")
    network, tokenizer = load.network(model, merged=True)
    if k > (most := _divergence.words(tokenizer)):
        raise MetierError(f"{NAME}: 'k' must be at most {most}, the words of the teacher, got {k}")
    notes: dict[str, Any] = {"recalibrate": recalibrate, "temperature": None, "k": k, "model": model.digest}
    if dev is not None:
        asked = _table.of(network, tokenizer, dev, k, length, work).only(places)
        if recalibrate == "temperature" and temperature is None:
            temperature = searched(asked.p, asked.right)
        flat = flattened(asked.p, recalibrate, temperature, smoothing)
        notes["ece"] = {"before": error(linear(asked.p), asked.right), "after": error(flat, asked.right)}
    table = _table.of(network, tokenizer, data, k, length, work)
    mass = table.p.sum(-1)
    notes |= {"coverage": float(mass.mean()), "vocabulary": _vocabulary(tokenizer), "tokens": len(mass)}
    if recalibrate == "temperature":
        notes["temperature"] = temperature
    folder = work.folder / "part"
    folder.mkdir(exist_ok=True)
    save_file({"ids": table.ids, "p": flattened(table.p, recalibrate, temperature, smoothing), "mass": mass,
               "golds": table.golds, "first": table.first}, folder / "table.safetensors")  # fmt: skip
    write_json(folder / "records.json", table.records)
    work.log(event="table", **notes)
    return Part(folder, f"{NAME}.fit", files_digest(folder), notes)


def loss(
    model: nn.Module, batch: Batch, memory: dict[str, Any], *, table: Part,
    match: Literal["linear", "softmax", "other"] = "linear",
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean, in nats per token: a scalar."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    at = _stored.places(memory["spans"], batch)

    def each(logits: Tensor, part: slice) -> Tensor:
        rows = at[part]
        ids, p = memory["ids"][rows].long(), memory["p"][rows]
        if match == "other":
            kept = _divergence.with_rest(p * memory["mass"][rows, None])
            return _divergence.kl(kept, _divergence.likely(logits, ids))
        if match == "softmax":
            return _divergence.kl(p, log_softmax(softmax(logits, -1).gather(-1, ids) / memory["temperature"], -1))
        return _divergence.kl(p, log_softmax(logits.gather(-1, ids), -1))

    return _divergence.summed(picked, each, batch.weights(picked.rows)) / max(batch.weight_in_step, 1e-9)


def start(
    model: nn.Module, data: Iterator[Batch], tokenizer: PreTrainedTokenizerBase, table: Part,
    match: Literal["linear", "softmax", "other"] = "linear",
) -> dict[str, Any]:  # fmt: skip
    """The table's tensors, and where in them each record of the training lies."""
    if _vocabulary(tokenizer) != table.notes["vocabulary"]:
        raise MetierError(f"{NAME}: the teacher of the table has another vocabulary than the student")
    if match == "softmax" and table.notes["temperature"] is None:
        raise MetierError(f"{NAME}: 'softmax' needs a table that was recalibrated by a temperature")
    held = load_file(table.path / "table.safetensors")
    golds, first, numbers = held.pop("golds"), held.pop("first").tolist(), _numbers(table.path)
    spans: _stored.Spans = {}
    for batch in data:
        learnt = zip(batch.ids, batch.numbers.tolist(), _stored.learnt(batch), strict=True)
        for name, number, (columns, tokens) in learnt:
            if name not in numbers:
                raise MetierError(f"{NAME}: the table has no record '{name}'; make it of the records trained on")
            begin, end = first[numbers[name]], first[numbers[name] + 1]
            if not torch.equal(golds[begin:end][: len(tokens)], tokens.int()):
                raise MetierError(f"{NAME}: the table holds other tokens of record '{name}' than are learnt here")
            spans[number] = (begin, columns)
    device = next(model.parameters()).device
    on_device = {name: tensor.to(device) for name, tensor in held.items()}
    return {**on_device, "spans": spans, "temperature": table.notes["temperature"]}


def flattened(p: Tensor, how: str, temperature: float | None, smoothing: float) -> Tensor:
    """Probabilities of the likeliest words, falling [n, k], less sure of themselves and summing to 1."""
    if how == "temperature":
        assert temperature is not None
        return softmax(p / temperature, -1)
    if how == "none":
        return linear(p)
    share = 1 / (p.shape[-1] - 1)
    taken = ((p[:, :1] - p[:, 1:2]) / (1 + share)).clamp(max=smoothing)  # no further than where the first two are equal
    return linear(torch.cat([p[:, :1] - taken, p[:, 1:] + taken * share], -1))


def linear(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)


def searched(p: Tensor, right: Tensor) -> float:
    """The c of the least calibration error of the likeliest word: p [n, k], ``right`` [n] whether it was the one."""
    coarse = [round(COARSE * i, 2) for i in range(1, 11)]
    best = min(coarse, key=lambda c: error(softmax(p / c, -1), right))
    fine = [round(best + FINE * i, 2) for i in range(-4, 5)]
    return min((c for c in fine if c > 0), key=lambda c: error(softmax(p / c, -1), right))


def error(p: Tensor, right: Tensor) -> float:
    return stats.calibration_error(p.amax(-1).tolist(), right.float().tolist())


def _numbers(folder: Path) -> dict[str, int]:
    names: list[str] = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    return {name: number for number, name in enumerate(names)}


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    return text_digest(json_text(tokenizer.get_vocab()))
