"""Pulls the trained weights back to where they started.

The plain way to learn a field and forget less: what need not move stays near its place. Use it when there is no
general data to replay; the higher the learning rate, the more there is to pull. It needs a copy of the weights that
train: little beside an adapter, as much again as the model where all of it trains.

    L₂ = strength · Σᵢ ‖θᵢ − θᵢ(0)‖²     over the tensors i that train

A step counts it once, however it is cut. A training that goes on after a kill pulls to the same start.

Paper: 8 (its baseline *L2*)
Options:
    strength: weight of the squared distance beside the loss in nats a token.
Differs: beside an adapter the distance is that of its own tensors, not of the product they add to the model. LoRA's B
    starts from zero, so pulling it back takes back the change; pulling A to its random start alone changes little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from metier.options import Positive
from metier.train.batches import Batch
from metier.train.setup import trained


def term(model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, strength: Positive = 1e-3) -> Tensor:
    """The batch's share of the step's one pull: a scalar."""
    return strength * batch.share * squared_distance(dict(model.named_parameters()), memory)


def start(model: nn.Module, data: Iterator[Batch]) -> dict[str, Tensor]:
    """The weights before the first step."""
    return trained(model)


def squared_distance(weights: Mapping[str, Tensor], origin: Mapping[str, Tensor]) -> Tensor:
    """Σ (w − o)² over the names of ``origin``, in float32: a scalar."""
    return torch.stack([(weights[name].float() - o.float()).square().sum() for name, o in origin.items()]).sum()
