"""What the tests of distillation share: batches of the toy's records, and its logits over all words."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metier.artefacts import Model, Records
from metier.laws import toy as maker
from metier.lm import load
from metier.train.batches import Batch, collate
from metier.train.examples import Examples, conversations, pairs

CPU = torch.device("cpu")


def opened(model: Model) -> tuple[nn.Module, Any]:
    network, tokenizer = load.network(model)
    return network.to(CPU).train(), tokenizer


def batch_of(examples: Examples, rows: Any = None) -> Batch:
    window = np.arange(len(examples))
    return collate(examples, window if rows is None else rows, window, seed=0, epoch=0, progress=0.0, device=CPU)


def talk(tokenizer: Any, count: int = 6, length: int = 64) -> Examples:
    return conversations(tokenizer, maker.questions(count), length)


def preferred(tokenizer: Any, data: Records) -> Examples:
    return pairs(tokenizer, data, 64)


def moved(network: nn.Module, by: float = 0.05) -> nn.Module:
    """A copy elsewhere, the same every time."""
    network = copy.deepcopy(network)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=draw))
    return network


def all_logits(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What predicts the supervised tokens [n, vocab], and the tokens [n], in transformers' own way."""
    logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    here = batch.labels[:, 1:] != -100
    return logits[here], batch.labels[:, 1:][here]


def gradient(network: nn.Module, value: Tensor) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    value.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor], within: float = 1e-6) -> bool:
    """Up to rounding, which grows with the largest of a tensor's numbers."""
    return one.keys() == other.keys() and all(
        float((one[n] - other[n]).abs().max()) <= within * max(1.0, float(other[n].abs().max())) for n in one
    )
