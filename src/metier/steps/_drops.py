"""Records that leave are counted and written down, each with its reason: kept + dropped = read."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from metier.artefacts import Records, Scores
from metier.disk import ROWS_A_BATCH, read_table
from metier.options import MetierError, tally
from metier.store import Work


def scored(data: Records, scores: Scores, owner: str) -> pa.Table:
    """The scores in the order of the records. Raises MetierError when a record has none."""
    ids, rows = data.array("id"), scores.table
    if ids.equals(rows["id"]):
        return rows
    at = pc.index_in(ids, rows["id"])
    if at.null_count:
        first = ids.filter(at.is_null())[0].as_py()
        raise MetierError(f"{owner}: record {first!r} has no row in the scores ({at.null_count} have none)")
    return rows.take(at)


def reasons(rows: pa.Table) -> dict[str, str]:
    """Of those scores that are a reason why not, by id."""
    gone = rows.filter(rows["reason"].is_valid())
    return dict(zip(gone["id"].to_pylist(), gone["reason"].to_pylist(), strict=True))


def without(data: Records, reasons: dict[str, str], work: Work, owner: str) -> Records:
    counts = Counter(reason.split(" of ")[0] for reason in reasons.values())
    work.log(event="kept", read=len(data), kept=len(data) - len(reasons), dropped=dict(counts))
    for i, reason in reasons.items():
        work.log(event="dropped", id=i, reason=reason)
    if len(reasons) == len(data):
        raise MetierError(f"{owner}: nothing is left of {len(data)} records ({tally(counts)})")
    if not reasons:
        return data
    ids, path = data.array("id"), work.folder / "kept.arrow"
    stays = pc.invert(pc.is_in(ids, pa.array(reasons, ids.type)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.table.schema) as writer:
        for start in range(0, len(data), ROWS_A_BATCH):  # so that memory holds one batch
            writer.write_table(data.table.slice(start, ROWS_A_BATCH).filter(stays.slice(start, ROWS_A_BATCH)))
    kept = Records(read_table(path))
    path.unlink()  # the open map keeps the rows until the artefact is saved
    return kept
