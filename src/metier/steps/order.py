"""The records in the order of their scores, for training from easy to hard.

Take it with ``order: given`` in the training step, or the batches are mixed again. Equal scores keep the order of the
records. A reason instead of a score drops a record, as in `keep`.

Options:
    first: *lowest* or *highest* score first.
Raises: MetierError when a record has no row in the scores, or nothing is left.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from metier.artefacts import Records, Scores
from metier.steps import _drops
from metier.store import Work


def run(data: Records, scores: Scores, *, first: Literal["lowest", "highest"] = "lowest", work: Work) -> Records:
    rows = _drops.scored(data, scores, "order")
    kept = _drops.without(data, _drops.reasons(rows), work, "order")
    values = rows["score"].drop_null().to_numpy()
    return kept.take(np.argsort(values if first == "lowest" else -values, kind="stable").tolist())
