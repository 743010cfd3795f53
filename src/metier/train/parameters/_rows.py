"""Data as the training loops read it, for a look at the gradients before the first step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records
from metier.lm.loss import is_classifier
from metier.lm.size import AT_ONCE
from metier.options import MetierError
from metier.train import batches, examples
from metier.train.batches import Batch

LENGTH = 512  # of a row; what is longer is cut, as in training
ROWS = 16  # of a step


def steps(
    owner: str, module: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Records, max_tokens: int
) -> Iterator[list[Batch]]:
    """Steps of 16 rows as micro-batches, evenly spread over the data, about ``max_tokens`` tokens in all.

    Labels where the module is a classifier, else pairs, conversations or packed texts by the columns of the records.
    Raises MetierError when there is nothing to read.
    """
    if not len(data):
        raise MetierError(f"{owner}: there are no records to look at")
    return _cut(module, tokenizer, data, max_tokens)


def _cut(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Records, max_tokens: int
) -> Iterator[list[Batch]]:
    read = examples.packed
    if is_classifier(module):
        names: dict[int, str] = _config(module).id2label
        read = functools.partial(examples.labelled, labels=[names[i] for i in sorted(names)])
    elif "replies" in data.columns:
        read = examples.pairs
    elif {"messages", "completion"} & set(data.columns):
        read = examples.conversations
    found = read(tokenizer, data, LENGTH)
    rows = batches.spread(found.lengths, max_tokens).rows
    device = next(module.parameters()).device
    for window in np.array_split(rows, -(-len(rows) // ROWS)):
        cut = batches.micro_batches(found.costs, window, AT_ONCE)
        yield [
            batches.collate(found, part, window, seed=0, epoch=0, progress=0.0, device=device) for part in cut
        ]  # fmt: skip


def _config(module: Any) -> Any:
    return module.config
