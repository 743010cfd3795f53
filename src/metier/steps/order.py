"""The records in the order of their scores, for training from easy to hard.

Take it with ``order: given`` in the training step, or the batches are mixed again. Equal scores keep the order of the
records. A reason instead of a score drops a record, as in `keep`.

Options:
    first: *lowest* or *highest* score first.
Raises: MetierError when a record has no row in the scores, or nothing is left.
"""

from __future__ import annotations

from typing import Literal

from metier.artefacts import Records, Scores
from metier.steps import _drops
from metier.store import Work


def run(data: Records, scores: Scores, *, first: Literal["lowest", "highest"] = "lowest", work: Work) -> Records:
    by_id = _drops.scored(data, scores, "order")
    reasons = {i: by_id[i]["reason"] for i in data.column("id") if by_id[i]["reason"]}
    kept = _drops.without(data, reasons, work, "order")
    sign = 1 if first == "lowest" else -1
    values = [sign * by_id[i]["score"] for i in kept.column("id")]
    return kept.take(sorted(range(len(values)), key=values.__getitem__))
