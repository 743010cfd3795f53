"""Records → token rows → steps → micro-batches.

A step is a window of rows, a pure function of seed, epoch and step; inside it rows are sorted by length and cut into
micro-batches of a token budget. However it is cut, the sum over the step is the same.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records, Row
from metier.lm import heads, tokens
from metier.lm.loss import IGNORED
from metier.options import MetierError, tally

FORMS = ("messages", "prompt", "text")  # what a classifier reads of a record, the first there is


@dataclasses.dataclass
class Batch:
    """A micro-batch, rows padded on the right.

    The three numbers ``*_in_step`` are of the whole step, over accumulation and processes: an objective returns its
    sum over the batch divided by one of them. ``share`` is the batch's part of the step's tokens; the shares of a step
    sum to 1. ``seen`` is for objectives with a memory: name → numbers per row [batch].
    """

    input_ids: Tensor  # [batch, time]
    attention_mask: Tensor  # [batch, time], 1 where there is a token
    labels: Tensor  # [batch, time], -100 where nothing is supervised
    weight: Tensor  # [batch], of the records; 1 unless the data has a column `weight`
    ids: list[str]
    fields: dict[str, list[Any]]
    tokens_in_step: int  # supervised tokens
    rows_in_step: int
    weight_in_step: float  # supervised tokens times the weight of their record
    share: float
    progress: float  # share of the training that is done
    seed: int
    epoch: int
    position_ids: Tensor | None = None  # None counts from 0
    seen: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def generator(self, row: int) -> torch.Generator:
        """Randomness of one record in one epoch: the same whatever batch the record lies in."""
        text = f"{self.seed}\x1f{self.epoch}\x1f{self.ids[row]}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Token rows in flat arrays: row i is ``tokens[offsets[i] : offsets[i + 1]]``."""

    ids: list[str]
    tokens: np.ndarray  # int32 [total]
    labels: np.ndarray  # int32 [total]
    offsets: np.ndarray  # int64 [rows + 1]
    weights: np.ndarray  # float64 [rows]
    fields: dict[str, list[Any]]
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """Supervised tokens per row; the first token of a row has nothing before it that could predict it."""
        counted = (self.labels != IGNORED).astype(np.int64)
        counted[self.offsets[:-1]] = 0
        return np.add.reduceat(counted, self.offsets[:-1]) if len(self) else np.zeros(0, np.int64)


Read = Callable[[PreTrainedTokenizerBase, Records, int, Mapping[str, str]], Examples]


def packed(tokenizer: PreTrainedTokenizerBase, data: Records, length: int, fields: Mapping[str, str]) -> Examples:
    """Texts for pre-training: chunks of a document joined in order, documents ended by a mark, cut into full rows.

    Every token lies in exactly one row; only the last row is shorter than ``length``.
    Raises MetierError when there is no text, or a method wants record columns (a row holds many records).
    """
    if fields:
        wanted = next(iter(fields.values()))
        raise MetierError(f"train: a packed row holds many records, so it has no column '{wanted}' for the objective")
    if "text" not in data.columns:
        held = ", ".join(data.columns) or "none"
        raise MetierError(f"train: pre-training needs records with a 'text'; they have: {held}")
    start, end = tokens.first_ids(tokenizer), tokens.separator(tokenizer)
    ends = [] if end is None else [end]
    streams = [np.asarray([*start, *tokens.encode(tokenizer, t), *ends], np.int32) for t in documents(data)]
    stream = np.concatenate(streams) if streams else np.zeros(0, np.int32)
    if len(stream) < 2:
        raise MetierError("train: there is no text to train on")
    offsets = np.append(np.arange(0, len(stream), length), len(stream))
    if offsets[-1] - offsets[-2] == 1 and len(offsets) > 2:  # a lone token predicts nothing: it joins the row before
        offsets = np.delete(offsets, -2)
    rows = len(offsets) - 1
    return Examples([f"row {i}" for i in range(rows)], stream, stream, offsets.astype(np.int64), np.ones(rows), {}, {})


def documents(data: Records) -> Iterator[str]:
    """The running text of each document, in order of first appearance: title once, headings where they change."""
    chunks: dict[str, list[Row]] = {}
    for row in data:
        if row["text"]:
            chunks.setdefault(row.get("document") or row["id"], []).append(row)
    for rows in chunks.values():
        parts: list[str] = []
        path: list[str] = []
        title = rows[0].get("title") or ""
        if title and not rows[0]["text"].lstrip().startswith(title):
            parts.append(title)
        for row in rows:
            heading = [h.strip() for h in (row.get("heading") or "").split(" > ") if h.strip()]
            both = min(len(heading), len(path))
            same = next((i for i in range(both) if heading[i] != path[i]), both)
            parts += [h for h in heading[same:] if h != title and not row["text"].lstrip().startswith(h)]
            parts.append(row["text"].strip("\n"))
            path = heading
        yield "\n\n".join(parts)


def conversations(
    tokenizer: PreTrainedTokenizerBase, data: Records, length: int, fields: Mapping[str, str]
) -> Examples:  # fmt: skip
    """Conversations or prompts with completions: one row a record, replies supervised, cut to ``length``.

    A record without a supervised token (or none left after the cut) is dropped with a reason.
    Raises MetierError when none is left.
    """
    rows, ids, labels, dropped = [], [], [], Counter[str]()
    for record in data:
        row_ids, row_labels = tokens.supervised(tokenizer, record)
        if reason := tokens.unlearnable(row_labels, length):
            dropped[reason] += 1
            continue
        rows.append(record)
        label = np.asarray(row_labels[:length], np.int32)
        last = int(np.flatnonzero(label != IGNORED)[-1]) + 1  # what stands behind it is never asked for
        ids.append(np.asarray(row_ids[:last], np.int32))
        labels.append(label[:last])
    return _examples(data, rows, ids, labels, fields, dropped)


def labelled(
    tokenizer: PreTrainedTokenizerBase, data: Records, length: int, fields: Mapping[str, str], *, labels: Sequence[str]
) -> Examples:
    """Texts, prompts or conversations: one row a record, the class of its ``label`` where the next word would be.

    Without label or text it is dropped with a reason. Raises MetierError for a label that is not among ``labels``.
    """
    classes = {label: number for number, label in enumerate(labels)}
    rows, ids, targets, dropped = [], [], [], Counter[str]()
    for record, label in zip(data, data.column("label"), strict=True):
        given = next((record[form] for form in FORMS if record.get(form)), None)
        row = heads.encode(tokenizer, given, length - 1) if given and label is not None else []
        if not row:
            dropped["no label" if label is None else "no text"] += 1
            continue
        if str(label) not in classes:
            raise MetierError(f"train: record {record['id']!r} has the label '{label}', none of {', '.join(classes)}")
        rows.append(record)
        ids.append(np.asarray([*row, 0], np.int32))
        targets.append(np.asarray([*[IGNORED] * len(row), classes[str(label)]], np.int32))
    return _examples(data, rows, ids, targets, fields, dropped)


def _examples(
    data: Records, rows: list[Row], ids: list[np.ndarray], labels: list[np.ndarray], fields: Mapping[str, str],
    dropped: Counter[str],
) -> Examples:  # fmt: skip
    """The rows that are left, with the columns that methods ask for."""
    if not rows:
        longer = "; raise 'length'" if any(reason.startswith("no reply within") for reason in dropped) else ""
        raise MetierError(f"train: no record to train on ({tally(dropped) or 'there are none'}){longer}")
    for wanted in fields.values():
        if wanted not in data.columns:
            held = ", ".join(data.columns)
            raise MetierError(f"train: the objective needs a column '{wanted}'; records have: {held}")
    weights = np.array([1.0 if row.get("weight") is None else row["weight"] for row in rows], np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise MetierError("train: the column 'weight' must hold numbers of at least 0, one of them greater")
    columns = {name: [row[column] for row in rows] for name, column in fields.items()}
    names, offsets = [row["id"] for row in rows], np.cumsum([0, *map(len, ids)])
    return Examples(names, np.concatenate(ids), np.concatenate(labels), offsets, weights, columns, dict(dropped))


@dataclasses.dataclass(frozen=True)
class Window:
    """The rows of one step."""

    epoch: int
    rows: np.ndarray
    tokens: int


def plan(
    lengths: np.ndarray, *, seed: int, order: str, batch: int | None, step_tokens: int | None,
    epochs: float | None, steps: int | None, total_tokens: int | None,
) -> list[Window]:  # fmt: skip
    """Every step of a training: windows of each epoch in turn until it has been long enough."""
    found: list[Window] = []
    seen = 0
    for epoch in range(10**9):
        rows = np.arange(len(lengths))
        if order == "buckets":
            rows = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        cut = [Window(epoch, w, int(lengths[w].sum())) for w in _windows(lengths, rows, batch, step_tokens)]
        if epochs is not None and epochs - epoch < 1:
            cut = cut[: math.ceil(len(cut) * (epochs - epoch))]
        for window in cut:
            found.append(window)
            seen += window.tokens
            if len(found) == steps or (total_tokens is not None and seen >= total_tokens):
                return found
        if epochs is not None and epoch + 1 >= epochs:
            return found
    return found


def _windows(lengths: np.ndarray, rows: np.ndarray, batch: int | None, step_tokens: int | None) -> list[np.ndarray]:
    """Even cuts: a short last window would move the weights as far as a full one, on little evidence."""
    if step_tokens is None:
        return np.array_split(rows, math.ceil(len(rows) / (batch or 16)))
    ends = np.cumsum(lengths[rows])
    windows = math.ceil(ends[-1] / step_tokens)
    middles = ends - lengths[rows] / 2
    cuts = np.searchsorted(middles, ends[-1] / windows * np.arange(1, windows))
    return [w for w in np.split(rows, cuts) if len(w)]


def spread(lengths: np.ndarray, total: int) -> Window:
    """Rows evenly spread over all, about ``total`` tokens of them; every row when they are not that many."""
    count = max(1, round(len(lengths) * min(1.0, total / lengths.sum())))
    rows = np.unique(np.linspace(0, len(lengths) - 1, count).round().astype(np.int64))
    return Window(0, rows, int(lengths[rows].sum()))


def micro_batches(lengths: np.ndarray, rows: np.ndarray, budget: int, order: str = "buckets") -> list[np.ndarray]:
    """The rows of a step cut so that rows × longest stays within ``budget`` tokens (a longer row stands alone).

    Longest first, so that memory is highest in the first batch, not in the last.
    """
    if order == "buckets":
        return [rows[batch] for batch in tokens.batches(lengths[rows].tolist(), budget)]
    found: list[list[int]] = []
    longest = 0
    for row in rows.tolist():
        longest = max(longest, int(lengths[row]))
        if not found or (len(found[-1]) + 1) * longest > budget:
            found.append([])
            longest = int(lengths[row])
        found[-1].append(row)
    return [np.array(f) for f in found]


def collate(
    examples: Examples, rows: np.ndarray, window: np.ndarray, *,
    seed: int, epoch: int, progress: float, device: torch.device,
) -> Batch:  # fmt: skip
    """The batch of ``rows`` out of the step ``window``; no rows make an empty batch of one unsupervised token."""
    starts, ends = examples.offsets[rows], examples.offsets[rows + 1] if len(rows) else examples.offsets[rows]
    width = int((ends - starts).max()) if len(rows) else 1
    ids = np.zeros((max(1, len(rows)), width), np.int64)
    labels = np.full_like(ids, IGNORED)
    mask = np.zeros_like(ids)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        ids[i, : end - start] = examples.tokens[start:end]
        labels[i, : end - start] = examples.labels[start:end]
        mask[i, : end - start] = 1
    mask[: len(mask) - len(rows), 0] = 1
    lengths, targets = examples.lengths, examples.targets
    return Batch(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(examples.weights[rows] if len(rows) else np.zeros(1)).float().to(device),
        [examples.ids[r] for r in rows],
        {name: [column[r] for r in rows] for name, column in examples.fields.items()},
        int(targets[window].sum()),
        len(window),
        float((targets[window] * examples.weights[window]).sum()),
        float(lengths[rows].sum() / lengths[window].sum()) if len(rows) else 0.0,
        progress, seed, epoch,
    )  # fmt: skip
