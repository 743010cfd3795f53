"""A frozen model beside the one that trains, for losses that compare the two."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Model
from metier.lm import load
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.train.batches import Batch


class Teacher:
    """Tells what a frozen network makes of a batch where it is supervised."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def read(self, batch: Batch) -> lm_loss.Supervised:
        """A row a supervised position, in the order of ``lm.loss.supervised``; ``logits`` makes logits of some."""
        return lm_loss.supervised(self.network, batch.input_ids, batch.labels, batch.position_ids)

    def logits(self, batch: Batch) -> Tensor:
        """Of all positions at once: [n, vocab]."""
        return logits(self.read(batch))


def of(student: nn.Module, tokenizer: PreTrainedTokenizerBase, teacher: Model | None, owner: str) -> Teacher:
    """The ``teacher``; None is the student as it is now, which shares with it what does not train.

    Called in an objective's ``start``. Raises MetierError for a teacher with other words than the student's.
    """
    if teacher is None:
        frozen = {id(p): p for p in student.parameters() if not p.requires_grad}
        return Teacher(copy.deepcopy(student, frozen))
    network, its = load.network(teacher, merged=True)
    mine, theirs = tokenizer.get_vocab(), its.get_vocab()
    if mine != theirs:
        other = sum(theirs.get(word) != number for word, number in mine.items())
        raise MetierError(f"{owner}: the teacher has another vocabulary: {other} of the student's words differ in it")
    return Teacher(network.to(next(student.parameters()).device))


def logits(picked: lm_loss.Supervised, part: slice = slice(None)) -> Tensor:
    """Of the supervised positions, or of ``part`` of them, over all words: [n, vocab]."""
    if picked.logits is not None:
        return picked.logits[part]
    assert picked.hidden is not None and picked.head is not None
    return picked.hidden[part] @ picked.head.to(picked.hidden.dtype).t()
