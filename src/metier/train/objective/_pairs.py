"""Losses on the log-probabilities of two replies to a prompt, without a table of logits.

A preference loss bends the sums of log-probabilities of whole replies, so its gradient is known only when all tokens
of a pair have been read: they are read once without gradient, and then every token has the weight its reply's sum has
in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from metier.lm import loss as lm_loss
from metier.train.batches import Batch

# log-probabilities and numbers of tokens of the better and the worse reply, [records, 2] each → losses [records]
Compare = Callable[[Tensor, Tensor], Tensor]


def loss(model: nn.Module, batch: Batch, compare: Compare) -> Tensor:
    """Σ weight of the record · compare(…) / records of the step: a scalar."""
    picked = lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)
    sums, tokens = totals(picked, len(batch.input_ids))
    with torch.enable_grad():
        sums.requires_grad_()
        value = (compare(sums, tokens) * batch.weight).sum() / batch.rows_in_step
        (slope,) = torch.autograd.grad(value, sums)
    through = picked.loss(slope.reshape(-1)[picked.rows])  # Σ slope · −log p
    return value.detach() - (through - through.detach())


def totals(picked: lm_loss.Supervised, rows: int) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities of the replies, in nats, and their numbers of tokens, without gradient: [records, 2]."""
    each = -picked.per_token()
    sums, tokens = each.new_zeros(rows), each.new_zeros(rows)
    sums.index_add_(0, picked.rows, each)
    tokens.index_add_(0, picked.rows, torch.ones_like(each))
    return sums.reshape(-1, 2), tokens.reshape(-1, 2)


def reference(model: nn.Module, data: Iterator[Batch]) -> Tensor:
    """Summed log-probabilities of every record's replies as the model gives them now, by the record's number: [all, 2].

    Records that are not trained on have 0.
    """
    training = model.training
    model.eval()  # dropout would be in the reference, and in every step another one in what is compared with it
    found: dict[int, Tensor] = {}
    for batch in data:
        sums, _ = totals(lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids),
                         len(batch.input_ids))  # fmt: skip
        found |= dict(zip(batch.numbers.tolist(), sums, strict=True))
    model.train(training)
    table = next(iter(found.values())).new_zeros(max(found) + 1, 2)
    for number, sums in found.items():
        table[number] = sums
    return table


def gain(sums: Tensor, batch: Batch, memory: dict[str, Tensor]) -> Tensor:
    """How much likelier than at the start the replies have become, log π − log π₀: [records, 2]."""
    return sums - memory["reference"][batch.numbers]


def means(sums: Tensor, tokens: Tensor) -> Tensor:
    """Per token: [records, 2]; 0 for a reply of none."""
    return sums / tokens.clamp(min=1)
