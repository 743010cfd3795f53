"""What a model makes of records as they would be learnt: the loss of the supervised tokens of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from metier.artefacts import Model, Records, Row
from metier.lm import load, tokens
from metier.lm import loss as lm_loss
from metier.lm.loss import IGNORED
from metier.store import Work

BUDGET = 2048  # tokens at once, padding counted


def mean_losses(data: Records, model: Model, length: int, work: Work) -> Iterator[Row]:
    """In the order of the records {id, loss, reason}: the mean loss in nats a token of what ``train.loop.sft`` would
    supervise of a record cut to ``length`` tokens, or why it would be dropped.

    Records are batched in the order of their ids, so their own order changes nothing.
    """
    network, tokenizer = load.network(model, merged=True)
    whole = {row["id"]: tokens.supervised(tokenizer, row) for row in data}
    reasons = {i: tokens.unlearnable(labels, length) for i, (_, labels) in whole.items()}
    made = {i: (ids[:length], labels[:length]) for i, (ids, labels) in whole.items()}
    names = sorted(i for i, reason in reasons.items() if reason is None)
    found: dict[str, float] = {}
    with work.progress("losses of records", len(names)) as bar:
        for batch in tokens.batches([len(made[i][0]) for i in names], BUDGET):
            ids = [names[k] for k in batch]
            found |= dict(zip(ids, _means(network, [made[i] for i in ids]), strict=True))
            bar.advance(len(batch))
    for i, reason in reasons.items():
        yield {"id": i, "loss": found.get(i), "reason": reason}


@torch.no_grad()
def _means(network: nn.Module, rows: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """Of rows of ids and labels, the longest first."""
    device = next(network.parameters()).device
    ids, labels = (torch.full((len(rows), len(rows[0][0])), fill) for fill in (0, IGNORED))
    for k, (own, learnt) in enumerate(rows):
        ids[k, : len(own)], labels[k, : len(own)] = torch.tensor(own), torch.tensor(learnt)
    picked = lm_loss.supervised(network, ids.to(device), labels.to(device))
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
    sums.index_add_(0, picked.rows, picked.per_token().double())
    means: list[float] = (sums / torch.bincount(picked.rows, minlength=len(rows))).tolist()
    return means
