"""Laws of objectives: what is not supervised does not count, and how a step is cut changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from metier.laws._training import Examined, cutting_changes_nothing
from metier.laws.case import Case
from metier.lm.loss import IGNORED


def cutting_a_step_changes_nothing(case: Case) -> None:
    cutting_changes_nothing(Examined(case))


def what_is_not_supervised_changes_nothing(case: Case) -> None:
    """Padding, and tokens behind the last supervised one, may be anything."""
    examined = Examined(case)
    batch = examined.batch(examined.window)
    junk = torch.full((len(batch.input_ids), 5), 7)
    weighs = batch.token_weights
    longer = dataclasses.replace(
        batch,
        input_ids=torch.cat([batch.input_ids, junk], 1),
        labels=torch.cat([batch.labels, torch.full_like(junk, IGNORED)], 1),
        attention_mask=torch.cat([batch.attention_mask, torch.zeros_like(junk)], 1),
        token_weights=None if weighs is None else torch.cat([weighs, torch.zeros(junk.shape)], 1),
        seen={},
    )
    plain, padded = examined.value(batch).item(), examined.value(longer).item()
    assert abs(plain - padded) <= 1e-5 * max(1.0, abs(plain)), f"{plain} became {padded}"


def a_row_without_labels_is_finite(case: Case) -> None:
    examined = Examined(case)
    batch = examined.batch(np.arange(2))
    batch.labels[0] = IGNORED
    examined.network.zero_grad(set_to_none=True)
    value = examined.value(batch)
    value.backward()
    gradients = [p.grad for p in examined.network.parameters() if p.grad is not None]
    assert torch.isfinite(value) and all(bool(torch.isfinite(g).all()) for g in gradients)


def an_empty_batch_is_nothing(case: Case) -> None:
    """What fills up the batches of a process that has no rows left."""
    examined = Examined(case)
    value = examined.value(examined.batch(np.zeros(0, np.int64)))
    assert float(value) == 0 and value.requires_grad
