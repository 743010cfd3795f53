"""Tables with a row for every supervised position of the training data, found again in any batch."""

from __future__ import annotations

import torch
from torch import Tensor

from metier.lm.loss import IGNORED
from metier.train.batches import Batch

# number of a record among all → the first of its rows in the table, and the columns of the positions they are for
Spans = dict[int, tuple[int, Tensor]]


def learnt(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Columns of each record's supervised positions, and the tokens there: [positions] each, on the CPU."""
    found = []
    for row in batch.labels[: len(batch.ids), 1:].cpu():
        columns = (row != IGNORED).nonzero()[:, 0]
        found.append((columns, row[columns]))
    return found


def places(spans: Spans, batch: Batch) -> Tensor:
    """Rows of the table for the batch's supervised positions, in the order of ``lm.loss.supervised``: [n].

    By column: a hook may have taken some of a record's labels away since the table was made.
    """
    found = [torch.zeros(0, dtype=torch.long)]
    for number, (columns, _) in zip(batch.numbers.tolist(), learnt(batch), strict=False):  # an empty batch has a number
        begin, known = spans[number]
        found.append(begin + torch.searchsorted(known, columns))
    return torch.cat(found).to(batch.labels.device)
