"""Train, dev and test without leak: groups of documents that share text are split.

Documents that share text form a group; groups are split, never documents.

One document or under five groups: contiguous sections with a gap. Adds the columns `split` and `group`.
Test chunks that still overlap with train are dropped with a reason; the residual is logged.

Options:
    whole: the records before duplicates went, to say what whole documents dealt at random would have leaked.
    dev: share of the text held out for early stopping.
    test: share of the text held out for the report.
    seed: decides which groups go where.
Raises: MetierError when a split would be empty.
"""

from __future__ import annotations

from collections import Counter

from metier.artefacts import Records
from metier.options import MetierError, Seed, Share
from metier.steps import _drops
from metier.store import Work
from metier.text import leakfree


def run(
    data: Records, whole: Records | None = None, *, dev: Share = 0.1, test: Share = 0.2, seed: Seed = 0, work: Work
) -> Records:  # fmt: skip
    rows = list(data)
    assigned = leakfree.assign(rows, dev=dev, test=test, seed=seed)
    ids = data.column("id")
    marked = data.with_column("split", [assigned.split.get(i) for i in ids])
    marked = marked.with_column("group", [assigned.group.get(i) for i in ids])
    kept = _drops.without(marked, assigned.dropped, work, "split")
    sizes: Counter[str] = Counter()
    for row in kept:
        sizes[row["split"]] += len(row["text"].encode())
    for name in ("train", "dev", "test"):
        if not sizes[name]:
            raise MetierError(f"split: no text is left for {name}; there are {sum(sizes.values())} bytes in all")
    naive = leakfree.leak_at_random(list(whole), dev=dev, test=test, seed=seed) if whole is not None else None
    work.log(event="split", naive=naive, how=assigned.how, residual=assigned.residual, notes=assigned.notes,
             bytes=dict(sizes), groups=len(set(assigned.group.values())),
             documents=len(set(data.column("document"))))  # fmt: skip
    return kept
