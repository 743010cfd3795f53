"""Mean cross entropy of the supervised tokens, the plain loss of training.

The measure every other objective is compared with. Use it unless you have a reason not to.

    L = Σ_b w_b Σ_t −log p(y_bt | y_b<t)  /  Σ_b w_b n_b

over all supervised tokens t of all records b of a step; n_b is their number in the record, w_b the record's weight (its
column `weight`, 1 without one). Accumulation and processes change nothing: the denominator is the step's.

Options: none.
"""

from __future__ import annotations

from torch import Tensor, nn

from metier.lm import loss as lm_loss
from metier.train.batches import Batch


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The batch's part of the step's mean, in nats per token: a scalar."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    return picked.loss(batch.weights(picked.rows), max(batch.weight_in_step, 1e-9))
