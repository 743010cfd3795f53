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
    owner, names = owners(data, by)
    files = work.folder / "common"
    found = leakfree.assign(
        owner, lambda number: str(names[number]), functools.partial(_documents, data, owner),
        functools.partial(_said, data), dev=dev, test=test, seed=seed, folder=files,
    )  # fmt: skip
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
    marked = data.with_column("split", _named(pa.array(leakfree.SIDES), found.side))
    marked = marked.with_column("group", _groups(names, found))
    kept = _drops.without(marked, {ids[row].as_py(): why for row, why in found.dropped.items()}, work, "split")
    work.log(event="split", naive=naive, how=found.how, residual=found.residual, notes=found.notes, bytes=sizes,
             groups=len(np.unique(_joined(found)[found.side >= 0])), documents=len(names))  # fmt: skip
    return kept


def owners(data: Records, by: str | None) -> tuple[Array, pa.Array]:
    """The number of each record's document [records], and the documents' names in their order."""
    if by is not None:
        data.array(by)  # an error where there is none
    keys = np.empty(len(data), np.uint64)
    for row, name in enumerate(_belongs(data, by)):
        keys[row] = digest(name.encode("utf-8", "surrogatepass"))
    _, first, at = np.unique(keys, return_index=True, return_inverse=True)
    del keys
    wanted = np.zeros(len(data), bool)
    wanted[first] = True
    names = pa.array((name for name, new in zip(_belongs(data, by), wanted.tolist(), strict=True) if new), pa.string())
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))  # of a document by its first record
    number = np.empty(len(order), np.int32)
    number[np.argsort(first)] = rank
    return number[at], names.take(pa.array(order))


def said(row: Row) -> str:
    """All words of a record but those of system messages, which are given and not learnt."""
    return shapes.words({
        name: [part for part in value if not (isinstance(part, dict) and part.get("role") == "system")]
        if isinstance(value, list) else value
        for name, value in row.items()
    })  # fmt: skip


def _belongs(data: Records, by: str | None) -> Iterator[str]:
    """The document of each record: what stands in the column, or the record itself."""
    column = by or "document"
    columns = ["id", column] if column in data.columns else ["id"]
    for batch in data.table.select(list(dict.fromkeys(columns))).to_batches(max_chunksize=ROWS_A_BATCH):
        for row in batch.to_pylist():
            belongs = row.get(column)
            yield row["id"] if belongs is None else str(belongs)


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


def _groups(names: pa.Array, found: leakfree.Assignment) -> pa.Array:
    """The name of every record's group: its first document, or a section of a document."""
    plain = _named(names, np.where(found.side >= 0, found.group, -1))
    if found.how == "groups":
        return plain
    parts = pa.array(found.section, mask=found.section < 0).cast(pa.string())
    return pc.if_else(parts.is_null(), plain, pc.binary_join_element_wise(plain, parts, "/"))


def _named(names: pa.Array, numbers: Array) -> pa.Array:
    """The name of each number; null below 0."""
    return names.take(pa.array(numbers, pa.int32(), mask=numbers < 0))
