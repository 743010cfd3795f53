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

from collections import Counter
from typing import Any

from metier import shapes
from metier.artefacts import Records, Row
from metier.options import MetierError, Seed, Share, tally
from metier.steps import _drops
from metier.store import Work
from metier.text import leakfree


def run(
    data: Records, whole: Records | None = None, *, dev: Share = 0.1, test: Share = 0.2, seed: Seed = 0,
    by: str | None = None, work: Work,
) -> Records:  # fmt: skip
    rows = compared(data, by)
    if not any(row["text"] for row in rows):
        raise MetierError(f"split: the records hold no text, messages or prompt; they have: {', '.join(data.columns)}")
    assigned = leakfree.assign(rows, dev=dev, test=test, seed=seed)
    if by is not None and assigned.how == "sections":
        least = leakfree.LEAST_GROUPS
        raise MetierError(f"split: 'by' makes fewer than {least} groups of '{by}' that share no text with each other")
    ids = data.column("id")
    marked = data.with_column("split", [assigned.split.get(i) for i in ids])
    marked = marked.with_column("group", [assigned.group.get(i) for i in ids])
    kept = _drops.without(marked, assigned.dropped, work, "split")
    sizes: Counter[str] = Counter()
    for row in rows:
        if row["id"] in assigned.split:
            sizes[assigned.split[row["id"]]] += len(row["text"].encode())
    for name in ("train", "dev", "test"):
        if not sizes[name]:
            reasons = Counter(reason.split(" of ")[0] for reason in assigned.dropped.values())
            raise MetierError(f"split: no text is left for {name}; there are {sum(sizes.values())} bytes in all"
                              + (f" (dropped: {tally(reasons)})" if reasons else ""))  # fmt: skip
    naive = leakfree.leak_at_random(compared(whole, by), dev=dev, test=test, seed=seed) if whole is not None else None
    work.log(event="split", naive=naive, how=assigned.how, residual=assigned.residual, notes=assigned.notes,
             bytes=dict(sizes), groups=len(set(assigned.group.values())),
             documents=len({row["document"] for row in rows}))  # fmt: skip
    return kept


def compared(data: Records, by: str | None) -> list[dict[str, Any]]:
    """Rows {id, document, text}: what a record belongs to, and what is said in it."""
    if by is not None:
        data.column(by)  # an error where there is none
    found = []
    for row in data:
        belongs = row.get(by or "document")
        found.append({"id": row["id"], "document": row["id"] if belongs is None else str(belongs), "text": said(row)})
    return found


def said(row: Row) -> str:
    """All words of a record but those of system messages, which are given and not learnt."""
    return shapes.words({
        name: [part for part in value if not (isinstance(part, dict) and part.get("role") == "system")]
        if isinstance(value, list) else value
        for name, value in row.items()
    })  # fmt: skip
