"""What a model holds for the likeliest words at every supervised token of some records."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records
from metier.lm import loss as lm_loss
from metier.lm import size
from metier.store import Work
from metier.train import teacher as teaching
from metier.train.batches import collate, micro_batches
from metier.train.examples import conversations
from metier.train.objective import _divergence, _stored


@dataclasses.dataclass(frozen=True)
class Table:
    """Positions record by record; those of record r are ``first[r] : first[r + 1]``. On the CPU."""

    records: list[str]  # ids
    first: Tensor  # int64 [records + 1]
    golds: Tensor  # int32 [n], the token that stands there
    ids: Tensor  # int32 [n, k], the likeliest ones, falling
    p: Tensor  # float32 [n, k], of the softmax over all words

    @property
    def right(self) -> Tensor:
        """Whether the likeliest token is the one: [n]."""
        return self.ids[:, 0] == self.golds

    def only(self, places: str) -> Table:
        """The *first* position of each record, or *all*."""
        at = self.first[:-1] if places == "first" else torch.arange(len(self.golds))
        return dataclasses.replace(self, golds=self.golds[at], ids=self.ids[at], p=self.p[at])


@torch.no_grad()
def of(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Records, k: int, length: int, work: Work
) -> Table:  # fmt: skip
    """Conversations as `train.loop.sft` reads them; those it drops are counted in the log."""
    read, words = conversations(tokenizer, data, length), _divergence.words(tokenizer)
    device, window = next(network.parameters()).device, np.arange(len(read))
    records: list[str] = []
    golds, ids, p, first = [], [], [], [0]
    with work.progress("reading the teacher", len(read)) as bar:
        for rows in micro_batches(read.costs, window, size.at_once(network, device)):
            batch = collate(read, rows, window, seed=0, epoch=0, progress=0.0, device=device)
            picked = lm_loss.supervised(network, batch.input_ids, batch.labels)
            for part in _divergence.chunks(picked):
                best = softmax(teaching.logits(picked, part).float()[:, :words], -1).topk(k)
                p.append(best.values.cpu())
                ids.append(best.indices.int().cpu())
            golds.append(picked.labels.int().cpu())
            records += batch.ids
            first += [first[-1] + n for n in itertools.accumulate(len(at) for at, _ in _stored.learnt(batch))]
            bar.advance(len(rows))
    work.log(event="read", read=len(data), kept=len(read), dropped=read.dropped)
    return Table(records, torch.tensor(first), torch.cat(golds), torch.cat(ids), torch.cat(p))
