"""What is added up in a step: objective, terms and penalty, each with the memory it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metier.train.batches import Batch
from metier.train.setup import Setup
from metier.train.slots import module_of, options_of, takes


def adding(setup: Setup) -> dict[str, Callable[..., Tensor]]:
    """Objective and terms, whose values are added up, by the name of their place."""
    return {"objective": setup.objective} | {f"term{i}": term for i, term in enumerate(setup.terms)}


def remembering(setup: Setup) -> dict[str, Callable[..., Tensor]]:
    """Those with a memory: their file has ``start(model, data) -> {name: tensor}``, and they take what it gives.

    With ``remember(memory, seen)`` the memory changes between steps and lies in every checkpoint. Without, it is
    constant: on resume it is made anew, since ``start`` always sees the model as the loop received it.
    """
    return {place: slot for place, slot in adding(setup).items() if hasattr(module_of(slot), "start")}


class StepLoss(nn.Module):
    """Objective, terms and penalty as one module, so that a distributed wrapper sees all that is computed."""

    def __init__(self, network: nn.Module, setup: Setup, penalty: Callable[[Batch], Tensor] | None) -> None:
        super().__init__()
        self.network, self.setup, self.penalty = network, setup, penalty

    def forward(self, batch: Batch, memory: dict[str, dict[str, Any]]) -> Tensor:
        total = torch.zeros((), device=batch.input_ids.device)
        for place, slot in adding(self.setup).items():
            kept = (memory[place],) if place in memory else ()
            total = total + slot(self.network, batch, *kept)
        return total if self.penalty is None else total + self.penalty(batch)


def begun(slot: Callable[..., Any], network: nn.Module, data: Iterator[Batch], tokenizer: Any) -> dict[str, Any]:
    """The memory a method starts with; its ``start`` gets those of the method's options it takes, and the tokenizer."""
    start = module_of(slot).start
    known = options_of(slot) | {"tokenizer": tokenizer}
    with torch.no_grad():
        made: dict[str, Any] = start(network, data, **{k: v for k, v in known.items() if takes(start, k)})
    return made
