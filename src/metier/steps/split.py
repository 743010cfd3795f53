"""Train, dev and test without leak: groups of documents that share text are split.

For chunks of documents, and for training data that comes as records, where each record is a document of its own. What
is compared is all that a record says but for system messages, which a whole collection may share. Documents that share
text form a group; groups are split, never documents. A document that lies inside another one is dropped.

One document or under five groups: contiguous sections with a gap. Adds the columns `split` and `group`.
Test chunks that still overlap with train are dropped with a reason; the residual is logged. Text in common counts from
13 words on: records that share no more than a short question are kept together with `by`.

Options:
    whole: the records before duplicates went, to say what whole documents dealt at random would have leaked.
    dev: share of the text held out for early stopping.
    test: share of the text held out for the report.
    seed: decides which groups go where.
    by: a column such as *author* or *prompt*; records with the same value are one document.
Raises: MetierError when the records hold no text, there are too few groups by `by`, or a split would be empty.
"""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metier import shapes
from metier.artefacts import Records, Row
from metier.disk import ROWS_A_BATCH
from metier.options import MetierError, Seed, Share, tally
from metier.steps import _drops
from metier.store import Work
from metier.text import leakfree
from metier.text.common import Array
from metier.text.grams import digest


def run(
    data: Records, whole: Records | None = None, *, dev: Share = 0.1, test: Share = 0.2, seed: Seed = 0,
    by: str | None = None, work: Work,
) -> Records:  # fmt: skip
    owner, first = owners(data, by)
    files = work.folder / "common"
    found = leakfree.assign(
        owner, lambda number: str(_names(data, by, first[[number]])[0]), functools.partial(_documents, data, owner),
        functools.partial(_said, data), dev=dev, test=test, seed=seed, folder=files,
    )  # fmt: skip
    pa.default_memory_pool().release_unused()  # or it keeps sixty bytes a record for itself
    if not found.bytes.any():
        raise MetierError(f"split: the records hold no text, messages or prompt; they have: {', '.join(data.columns)}")
    if by is not None and found.how == "sections":
        least = leakfree.LEAST_GROUPS
        raise MetierError(f"split: 'by' makes fewer than {least} groups of '{by}' that share no text with each other")
    sizes = {name: int(found.bytes[found.side == k].sum()) for k, name in enumerate(leakfree.SIDES)}
    for name, size in sizes.items():
        if not size:
            reasons = Counter(reason.split(" of ")[0] for reason in found.dropped.values())
            raise MetierError(f"split: no text is left for {name}; there are {sum(sizes.values())} bytes in all"
                              + (f" (dropped: {tally(reasons)})" if reasons else ""))  # fmt: skip
    naive = None
    if whole is not None:
        naive = leakfree.leak_at_random(
            owners(whole, by)[0], functools.partial(_said, whole), dev=dev, test=test, seed=seed, folder=files / "whole"
        )
    shutil.rmtree(files, ignore_errors=True)
    ids = data.array("id")
    sides = pa.array(leakfree.SIDES).take(pa.array(found.side, mask=found.side < 0))
    marked = data.with_column("split", sides).with_column("group", _groups(data, by, first, found))
    kept = _drops.without(marked, {ids[row].as_py(): why for row, why in found.dropped.items()}, work, "split")
    work.log(event="split", naive=naive, how=found.how, residual=found.residual, notes=found.notes, bytes=sizes,
             groups=len(np.unique(_joined(found)[found.side >= 0])), documents=len(first))  # fmt: skip
    return kept


def owners(data: Records, by: str | None) -> tuple[Array, Array]:
    """The number of each record's document [records], in the order of their names, and the first row of each."""
    if by is not None:
        data.array(by)  # an error where there is none
    if (by or "document") not in data.columns:  # every record is one
        first = pc.sort_indices(data.array("id")).to_numpy().astype(np.int32)
        pa.default_memory_pool().release_unused()
        return _rank(first), first
    keys = np.concatenate([np.array([digest(name.encode("utf-8", "surrogatepass")) for name in found], np.uint64)
                           for found in _belongs(data, by)])  # fmt: skip
    _, rows, at = np.unique(keys, return_index=True, return_inverse=True)
    rows, at = rows.astype(np.int32), at.astype(np.int32)
    order = pc.sort_indices(_names(data, by, rows)).to_numpy().astype(np.int32)
    return _rank(order)[at], rows[order]


def said(row: Row) -> str:
    """All words of a record but those of system messages, which are given and not learnt."""
    return shapes.words({
        name: [part for part in value if not (isinstance(part, dict) and part.get("role") == "system")]
        if isinstance(value, list) else value
        for name, value in row.items()
    })  # fmt: skip


def _belongs(data: Records, by: str | None) -> Iterator[list[str]]:
    """The document of each record of a batch: what stands in the column, or the record itself."""
    column = by or "document"
    columns = ["id", column] if column in data.columns else ["id"]
    for batch in data.table.select(list(dict.fromkeys(columns))).to_batches(max_chunksize=ROWS_A_BATCH):
        yield [row["id"] if row.get(column) is None else str(row[column]) for row in batch.to_pylist()]


def _names(data: Records, by: str | None, rows: Array) -> pa.ChunkedArray:
    """The documents that the rows belong to."""
    if (by or "document") not in data.columns:
        return data.array("id").take(pa.array(rows))
    columns = Records(data.table.select(list(dict.fromkeys(["id", by or "document"]))))
    parts = [rows[start : start + ROWS_A_BATCH] for start in range(0, len(rows), ROWS_A_BATCH)]
    found = [pa.array(next(_belongs(columns.take(part.tolist()), by)), pa.string()) for part in parts]
    return pa.chunked_array(found, pa.string())


def _changed(names: pa.ChunkedArray, rows: Array) -> pa.ChunkedArray:
    """``names.take(rows)`` where nearly all stay where they are: what does not change is not copied."""
    parts, start = [], 0
    for chunk in names.chunks:
        own = rows[start : start + len(chunk)]
        moved = np.flatnonzero(own != np.arange(start, start + len(chunk))).tolist()
        start += len(chunk)
        if moved:
            words = chunk.to_pylist()
            for at in moved:
                words[at] = names[int(own[at])].as_py()
            chunk = pa.array(words, names.type)
        parts.append(chunk)
    return pa.chunked_array(parts, names.type)


def _rank(order: Array) -> Array:
    """At which place of the order each one stands."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def _said(data: Records) -> Iterator[tuple[int, str]]:
    """What every record says."""
    return ((number, said(row)) for number, row in enumerate(data))


def _documents(data: Records, owner: Array) -> Iterator[tuple[int, str]]:
    """What every document says: its records in their order, wherever they stand."""
    whole = int((owner[1:] != owner[:-1]).sum()) == int(owner.max())  # each in one piece
    order = None if whole else np.argsort(owner, kind="stable")
    texts: list[str] = []
    before = -1
    for number, text in _said(data) if order is None else _in_order(data, order):
        document = int(owner[number])
        if document != before and texts:
            yield before, "\n".join(texts)
            texts = []
        before = document
        texts.append(text)
    if texts:
        yield before, "\n".join(texts)


def _in_order(data: Records, order: Array) -> Iterator[tuple[int, str]]:
    for start in range(0, len(order), ROWS_A_BATCH):
        part = order[start : start + ROWS_A_BATCH]
        yield from zip(part.tolist(), map(said, data.take(part.tolist())), strict=True)


def _joined(found: leakfree.Assignment) -> Array:
    """One number for document and section."""
    return found.group.astype(np.int64) * (leakfree.SECTIONS * 2 + 1) + found.section + 1


def _groups(data: Records, by: str | None, first: Array, found: leakfree.Assignment) -> pa.ChunkedArray:
    """The name of every record's group: its first document, or a section of a document."""
    rows = first[found.group]
    if found.how == "groups":
        return _names(data, by, rows) if (by or "document") in data.columns else _changed(data.array("id"), rows)
    plain = _names(data, by, rows)
    parts = pa.array(found.section, mask=found.section < 0).cast(pa.string())
    plain = plain.combine_chunks()
    return pa.chunked_array([pc.if_else(parts.is_null(), plain, pc.binary_join_element_wise(plain, parts, "/"))])
