"""Rows on their way into the network: a step's share of this process, its batches, what was noted of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from metier.train.batches import Batch, Window, collate, micro_batches
from metier.train.examples import Examples
from metier.train.setup import Setup


class Feed:
    """Examples that are read in windows, ``at_once`` tokens at a time."""

    def __init__(self, examples: Examples, setup: Setup, at_once: int, accelerator: Accelerator) -> None:
        self.examples, self.setup, self.at_once, self.accelerator = examples, setup, at_once, accelerator

    def cut(self, window: Window) -> list[np.ndarray]:
        """This process's micro-batches of a window: as many as every other process has, filled up with empty ones."""
        cut = self._all(window)
        processes = self.accelerator.num_processes
        cut += [np.zeros(0, np.int64)] * (-len(cut) % processes)
        return cut[self.accelerator.process_index :: processes]

    def batch(self, rows: np.ndarray, window: Window, progress: float = 0.0) -> Batch:
        return collate(self.examples, rows, window.rows, seed=self.setup.seed, epoch=window.epoch,
                       progress=progress, device=self.accelerator.device)  # fmt: skip

    def stream(self, plan: list[Window]) -> Iterator[Batch]:
        """Every training row once, in plan order, all of them in every process: what ``start`` may look at."""
        for window in (w for w in plan if w.epoch == 0):
            for rows in self._all(window):
                yield self.batch(rows, window)

    def in_order(self, seen: list[tuple[list[str], dict[str, Tensor]]], window: Window) -> dict[str, Tensor]:
        """What the objective noted per row, over all processes, in the order of the window: name → [rows]."""
        by_id: dict[str, dict[str, Tensor]] = {}
        for ids, noted in gather_object(seen):
            for row, i in enumerate(ids):
                by_id[i] = {name: values[row] for name, values in noted.items()}
        ids = [self.examples.ids[r] for r in window.rows]
        return {name: torch.stack([by_id[i][name] for i in ids]) for name in by_id[ids[0]]}

    def _all(self, window: Window) -> list[np.ndarray]:
        return micro_batches(self.examples.costs, window.rows, self.at_once, self.setup.order)
