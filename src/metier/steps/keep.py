"""The records that scored best, in their own order; a reason instead of a score drops one.

Options:
    share: of the scored records, how many stay; ties are broken by id.
    above: only records whose score is greater.
Raises: MetierError when a record has no row in the scores, or nothing is left.
"""

from __future__ import annotations

import pyarrow.compute as pc

from metier.artefacts import Records, Scores
from metier.options import Real, Share
from metier.steps import _drops
from metier.store import Work


def run(data: Records, scores: Scores, *, share: Share = 1.0, above: Real | None = None, work: Work) -> Records:
    rows = _drops.scored(data, scores, "keep")
    reasons = _drops.reasons(rows)
    best = pc.sort_indices(rows, [("score", "descending"), ("id", "ascending")])[: len(rows) - len(reasons)]
    good = len(best) if above is None else pc.sum(pc.greater(rows["score"], above)).as_py() or 0
    kept = round(good * share)
    ids = rows["id"]
    reasons |= dict.fromkeys(ids.take(best[good:]).to_pylist(), f"score not above {above}")
    reasons |= dict.fromkeys(ids.take(best[kept:good]).to_pylist(), f"not among the best {share:.0%}")
    return _drops.without(data, reasons, work, "keep")
