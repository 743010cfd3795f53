"""Records that leave are counted and written down, each with its reason: kept + dropped = read."""

from __future__ import annotations

from collections import Counter

from metier.artefacts import Records, Row, Scores
from metier.options import MetierError
from metier.store import Work


def scored(data: Records, scores: Scores, owner: str) -> dict[str, Row]:
    """The scores' row of every record, by id. Raises MetierError when a record has none."""
    by_id = {row["id"]: row for row in scores}
    missing = [i for i in data.column("id") if i not in by_id]
    if missing:
        raise MetierError(f"{owner}: record {missing[0]!r} has no row in the scores ({len(missing)} have none)")
    return by_id


def without(data: Records, reasons: dict[str, str], work: Work, owner: str) -> Records:
    counts = Counter(reason.split(" of ")[0] for reason in reasons.values())
    work.log(event="kept", read=len(data), kept=len(data) - len(reasons), dropped=dict(counts))
    for i, reason in reasons.items():
        work.log(event="dropped", id=i, reason=reason)
    if len(reasons) == len(data):
        raise MetierError(f"{owner}: nothing is left of {len(data)} records: {dict(counts)}")
    gone = set(reasons)
    return data.where([i not in gone for i in data.column("id")])
