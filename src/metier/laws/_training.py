"""What the laws of training share: a network, its examples, batches cut in any way, an interrupt at a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metier.laws.case import Case
from metier.lm import load
from metier.store import Bar
from metier.train import slots
from metier.train.added import begun
from metier.train.batches import Batch, collate
from metier.train.examples import Examples, conversations, pairs

CPU = torch.device("cpu")


class Examined:
    """The toy network and its training rows, for methods that take (model, batch)."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.network, tokenizer = load.network(case.bench.model)
        self.network.to(CPU).train()
        self.method = case.bound()
        read, data = conversations, case.bench.records
        if slots.needs_of(self.method).get("replies") == 2:
            read, data = pairs, case.bench.preferences
        self.examples: Examples = read(tokenizer, data, 64, slots.wanted(self.method))
        self.window = np.arange(8)
        self.memory: tuple[dict[str, Any], ...] = ()
        if hasattr(case.file, "start"):  # now: laws move the weights afterwards
            self.memory = (begun(self.method, self.network, iter([self.batch(self.window)]), tokenizer),)

    def batch(self, rows: np.ndarray) -> Batch:
        return collate(self.examples, rows, self.window, seed=0, epoch=0, progress=0.0, device=CPU)

    def value(self, batch: Batch) -> Tensor:
        value: Tensor = self.method(*self.inputs(batch))
        return value

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return self.network, batch, *self.memory

    def gradient(self, cuts: list[np.ndarray]) -> tuple[float, dict[str, Tensor]]:
        """The sum over the cuts and its gradient."""
        self.network.zero_grad(set_to_none=True)
        total = 0.0
        for rows in cuts:
            value = self.value(self.batch(rows))
            value.backward()
            total += float(value.detach())
        found = {n: p.grad.clone() for n, p in self.network.named_parameters() if p.grad is not None}
        return total, found


def cutting_changes_nothing(examined: Examined) -> None:
    """8 rows at once, 4 × 2, and 2 × 4 with an empty batch beside them: one loss and one gradient."""
    whole = examined.gradient([examined.window])
    for cuts in (np.split(examined.window, 4), [*np.split(examined.window, 2), np.zeros(0, np.int64)]):
        total, gradient = examined.gradient(cuts)
        assert abs(total - whole[0]) <= 1e-6 * max(1.0, abs(whole[0])), f"{whole[0]} at once, {total} in parts"
        for name, wanted in whole[1].items():
            worst = float((gradient[name] - wanted).abs().max())
            assert worst <= 1e-6 + 1e-5 * float(wanted.abs().max()), f"the gradient of {name} differs by {worst}"


class Interrupt(Exception):
    """Thrown in the middle of a training, as a kill would come."""


class Stopping:
    """Progress that throws once ``steps`` units of training are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def __call__(self, label: str, total: float) -> Iterator[Bar]:
        yield self if label == "training" else _Quiet()

    def advance(self, units: float = 1, note: str = "") -> None:
        self.left -= int(units)
        if self.left <= 0:
            raise Interrupt


class _Quiet:
    def advance(self, units: float = 1, note: str = "") -> None: ...


def logits(network: nn.Module) -> Tensor:
    """Of a fixed row of tokens, in eval mode: [time, vocab]."""
    network.eval()
    with torch.no_grad():
        found: Tensor = network(input_ids=torch.arange(3, 23)[None]).logits[0]
    return found
