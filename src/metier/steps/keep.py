"""The records that scored best, in their own order; a reason instead of a score drops one.

Options:
    share: of the scored records, how many stay; ties are broken by id.
    above: only records whose score is greater.
Raises: MetierError when a record has no row in the scores, or nothing is left.
"""

from __future__ import annotations

from metier.artefacts import Records, Scores
from metier.options import Real, Share
from metier.steps import _drops
from metier.store import Work


def run(data: Records, scores: Scores, *, share: Share = 1.0, above: Real | None = None, work: Work) -> Records:
    by_id = _drops.scored(data, scores, "keep")
    rows = [by_id[i] for i in data.column("id")]
    reasons = {row["id"]: row["reason"] for row in rows if row["reason"]}
    scored = sorted((r for r in rows if not r["reason"]), key=lambda r: (-r["score"], r["id"]))
    if above is not None:
        reasons |= {r["id"]: f"score not above {above}" for r in scored if r["score"] <= above}
        scored = [r for r in scored if r["score"] > above]
    cut = scored[round(len(scored) * share) :]
    reasons |= {r["id"]: f"not among the best {share:.0%}" for r in cut}
    return _drops.without(data, reasons, work, "keep")
