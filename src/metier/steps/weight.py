"""Scores become the column `weight` of their records: how much each counts in training.

For scores that say by how much, not only whether (`data.select.flow`). Weights are scores divided by their mean, so
that the loss keeps its size; where records have weights already the two are multiplied first. A loss is weighted where
a row is one record: `sft`, `head`, preferences; packed texts (`pretrain`) know no record. A reason instead of a score
drops a record, as in `keep`.

Raises: MetierError when a record has no row in the scores, a score is below 0, all are 0, or nothing is left.
"""

from __future__ import annotations

import numpy as np

from metier.artefacts import Records, Scores
from metier.options import MetierError
from metier.steps import _drops
from metier.store import Work


def run(data: Records, scores: Scores, *, work: Work) -> Records:
    rows = _drops.scored(data, scores, "weight")
    kept = _drops.without(data, _drops.reasons(rows), work, "weight")
    given = rows["score"].drop_null().to_numpy()
    if (given < 0).any():
        raise MetierError(f"weight: a score must be at least 0 to be a weight, the lowest is {given.min():g}")
    if "weight" in kept.columns:
        given = given * np.array([1.0 if w is None else w for w in kept.column("weight")])
    if given.sum() == 0:
        raise MetierError(f"weight: all {len(given)} weights are 0, so nothing could be learnt")
    return kept.with_column("weight", (given / given.mean()).tolist())
