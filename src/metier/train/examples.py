"""Records → rows of tokens, with what of them is learnt and how much it weighs."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records, Row
from metier.lm import heads, pieces, speakers, tokens
from metier.lm.loss import IGNORED
from metier.options import MetierError, tally

FORMS = ("messages", "prompt", "text")  # what a classifier reads of a record, the first there is


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a method asks of the rows.

    ``fields``: name → column of the records, for the batch. ``supervise``: the weight of a token in the loss by whose
    words it belongs to (`lm.speakers`), instead of 1 for replies and 0 for the rest: roles [time] → weights [time].
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    supervise: Callable[[np.ndarray], np.ndarray] | None = None


PLAIN = Wanted()


@dataclasses.dataclass(frozen=True)
class Examples:
    """Token rows in flat arrays: row i is ``tokens[offsets[i] : offsets[i + 1]]``.

    A record has ``replies`` rows that follow each other; lengths, targets and costs are those of whole records.
    """

    ids: list[str]
    tokens: np.ndarray  # int32 [total]
    labels: np.ndarray  # int32 [total]
    offsets: np.ndarray  # int64 [records · replies + 1]
    weights: np.ndarray  # float64 [records]
    fields: dict[str, list[Any]]
    dropped: dict[str, int]
    replies: int = 1
    token_weights: np.ndarray | None = None  # float32 [total]; None where every supervised token weighs 1

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record."""
        return self._rows.sum(1)

    @functools.cached_property
    def costs(self) -> np.ndarray:
        """Tokens that each record takes in a batch, where all its rows are as long as the longest."""
        return self._rows.max(1) * self.replies

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """Supervised tokens of each record; the first token of a row has nothing before it that could predict it."""
        return self._summed((self.labels != IGNORED).astype(np.int64))

    @functools.cached_property
    def target_weights(self) -> np.ndarray:
        """Their weights, summed."""
        if self.token_weights is None:
            return self.targets.astype(np.float64)
        return self._summed(np.where(self.labels != IGNORED, self.token_weights, 0).astype(np.float64))

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        """Lengths: [records, replies]."""
        return np.diff(self.offsets).reshape(-1, self.replies)

    def _summed(self, counted: np.ndarray) -> np.ndarray:
        counted[self.offsets[:-1]] = 0
        if not len(self):
            return counted
        return np.add.reduceat(counted, self.offsets[:-1]).reshape(-1, self.replies).sum(1)


Read = Callable[[PreTrainedTokenizerBase, Records, int, Wanted], Examples]


def packed(tokenizer: PreTrainedTokenizerBase, data: Records, length: int, wanted: Wanted = PLAIN) -> Examples:
    """Texts for pre-training: chunks of a document joined in order, documents ended by a mark, cut into full rows.

    Every token lies in exactly one row; only the last row is shorter than ``length``.
    Raises MetierError when there is no text, or a method wants record columns (a row holds many records).
    """
    if wanted.fields:
        column = next(iter(wanted.fields.values()))
        raise MetierError(f"train: a packed row holds many records, so it has no column '{column}' for the objective")
    if wanted.supervise:
        raise MetierError("train: texts are nobody's turn, so an objective cannot choose whose words are learnt")
    if "text" not in data.columns:
        held = ", ".join(data.columns) or "none"
        raise MetierError(f"train: pre-training needs records with a 'text'; they have: {held}")
    start, end = tokens.first_ids(tokenizer), tokens.separator(tokenizer)
    ends = [] if end is None else [end]
    streams = [np.asarray([*start, *pieces.encode(tokenizer, t), *ends], np.int32) for t in documents(data)]
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


def conversations(tokenizer: PreTrainedTokenizerBase, data: Records, length: int, wanted: Wanted = PLAIN) -> Examples:
    """Conversations or prompts with completions: one row a record, replies supervised, cut to ``length``.

    A record without a supervised token in a reply (or none left after the cut) is dropped with a reason.
    Raises MetierError when none is left.
    """
    made = _Rows(data, wanted)
    for record in data:
        ids, labels = tokens.supervised(tokenizer, record)
        weights, reason = None, tokens.unlearnable(labels, length)
        if reason is None and wanted.supervise is not None:
            weights = wanted.supervise(speakers.of(tokenizer, record)).astype(np.float32)
            labels = [i if w > 0 else IGNORED for i, w in zip(ids, weights.tolist(), strict=True)]
            reason = tokens.unlearnable(labels, length)
        if reason is not None:
            made.dropped[reason] += 1
            continue
        made.add(record, [(ids, labels, weights)], length)
    return made.examples()


def pairs(tokenizer: PreTrainedTokenizerBase, data: Records, length: int, wanted: Wanted = PLAIN) -> Examples:
    """The best and the worst reply to a prompt: two rows a record, in this order, the replies supervised.

    A record without two different replies of different scores, or of one of which the cut to ``length`` leaves
    nothing, is dropped with a reason. Raises MetierError when none is left, or records have no replies.
    """
    if "replies" not in data.columns:
        held = ", ".join(data.columns)
        raise MetierError(f"train: preferences have 'replies' (chosen and rejected in a file); records have: {held}")
    made = _Rows(data, wanted, replies=2)
    for record in data:
        sides = sorted(
            ((s, r) for s, r in zip(record["scores"] or [], record["replies"] or [], strict=True) if s is not None),
            key=lambda side: -side[0],
        )
        if len(sides) < 2 or sides[0][0] == sides[-1][0]:
            made.dropped["no two replies of different scores"] += 1
            continue
        rows = [
            tokens.supervised(tokenizer, {**record, "messages": None, "completion": reply})
            for _, reply in (sides[0], sides[-1])
        ]
        reasons = [reason for _, labels in rows if (reason := tokens.unlearnable(labels, length))]
        if rows[0] == rows[1] or reasons:
            made.dropped[reasons[0] if reasons else "two equal replies"] += 1
            continue
        made.add(record, [(ids, labels, None) for ids, labels in rows], length)
    return made.examples()


def labelled(
    tokenizer: PreTrainedTokenizerBase, data: Records, length: int, wanted: Wanted = PLAIN, *, labels: Sequence[str]
) -> Examples:
    """Texts, prompts or conversations: one row a record, the class of its ``label`` where the next word would be.

    Without label or text it is dropped with a reason. Raises MetierError for a label that is not among ``labels``.
    """
    classes = {label: number for number, label in enumerate(labels)}
    made = _Rows(data, wanted)
    for record, label in zip(data, data.column("label"), strict=True):
        given = next((record[form] for form in FORMS if record.get(form)), None)
        row = heads.encode(tokenizer, given, length - 1) if given and label is not None else []
        if not row:
            made.dropped["no label" if label is None else "no text"] += 1
            continue
        if str(label) not in classes:
            raise MetierError(f"train: record {record['id']!r} has the label '{label}', none of {', '.join(classes)}")
        made.add(record, [([*row, 0], [*[IGNORED] * len(row), classes[str(label)]], None)], length)
    return made.examples()


class _Rows:
    """Rows as they come, and the columns that methods ask for of the records that are left."""

    def __init__(self, data: Records, wanted: Wanted, replies: int = 1) -> None:
        self.data, self.wanted, self.replies = data, wanted, replies
        self.records: list[Row] = []
        self.ids: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.dropped: Counter[str] = Counter()

    def add(self, record: Row, rows: Sequence[tuple[list[int], list[int], np.ndarray | None]], length: int) -> None:
        self.records.append(record)
        for ids, labels, weights in rows:
            label = np.asarray(labels[:length], np.int32)
            last = int(np.flatnonzero(label != IGNORED)[-1]) + 1  # what stands behind it is never asked for
            self.ids.append(np.asarray(ids[:last], np.int32))
            self.labels.append(label[:last])
            if weights is not None:
                self.weights.append(weights[:last])

    def examples(self) -> Examples:
        records, fields = self.records, self.wanted.fields
        if not records:
            longer = "; raise 'length'" if any(r.startswith("no reply within") for r in self.dropped) else ""
            raise MetierError(f"train: no record to train on ({tally(self.dropped) or 'there are none'}){longer}")
        for column in fields.values():
            if column not in self.data.columns:
                held = ", ".join(self.data.columns)
                raise MetierError(f"train: the objective needs a column '{column}'; records have: {held}")
        weights = np.array([1.0 if row.get("weight") is None else row["weight"] for row in records], np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise MetierError("train: the column 'weight' must hold numbers of at least 0, one of them greater")
        return Examples(
            [row["id"] for row in records],
            np.concatenate(self.ids),
            np.concatenate(self.labels),
            np.cumsum([0, *map(len, self.ids)]),
            weights,
            {name: [row[column] for row in records] for name, column in fields.items()},
            dict(self.dropped),
            self.replies,
            np.concatenate(self.weights) if self.weights else None,
        )
