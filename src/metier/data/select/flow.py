"""Easy records count more than hard ones, by their loss under the untrained model.

For a field learnt without general data to replay, as `train.objective.talr` is, but by whole records and once for all:
records that the model finds improbable pull it farthest from what it could before. The step `weight` makes record
weights of the scores, which every training that reads one record a row honours (`sft`, `head`, not `pretrain`); `keep`
takes the easiest. Not where the hard records are what is to be learnt.

    score = exp(−l / tau);   l = mean loss of the record's supervised tokens;   tau = median of l, at least 1e-6

Paper: 8 (its baseline FLOW: Sanyal et al., Upweighting Easy Samples in Fine-Tuning Mitigates Forgetting, 2025)
Options:
    tau: the temperature, or the *median* of the records' losses.
    length: tokens a record is cut to, as in the training.
Raises: MetierError for a record that cannot be put into the model's chat template.
Differs: the weights are brought to a mean of 1 by the step that applies them, not to a sum of 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metier.artefacts import Model, Records, Scores
from metier.data.select._losses import mean_losses
from metier.options import Positive
from metier.store import Work

LEAST = 1e-6  # temperature
Length = Annotated[int, Field(ge=2)]


def score(
    data: Records, model: Model, *, tau: Positive | Literal["median"] = "median", length: Length = 512, work: Work
) -> Scores:
    """One row a record: its score in (0, 1], or why it would not be trained on; ``loss`` holds l in nats a token."""
    rows = list(mean_losses(data, model, length, work))
    known = [row["loss"] for row in rows if row["reason"] is None]
    given = easiness(np.array(known), tau)
    scores = iter(given.tolist())
    return Scores.from_rows(row | {"score": None if row["reason"] else next(scores)} for row in rows)


def easiness(losses: np.ndarray, tau: float | Literal["median"]) -> np.ndarray:
    """exp(−l / tau): [records]."""
    if not len(losses):
        return losses
    heat = max(float(np.median(losses)), LEAST) if isinstance(tau, str) else tau
    return np.exp(-losses / heat)
