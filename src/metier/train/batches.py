"""Rows of tokens → steps → micro-batches.

A step is a window of rows, a pure function of seed, epoch and step; inside it rows are sorted by length and cut into
micro-batches of a token budget. However it is cut, the sum over the step is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metier.lm import tokens
from metier.lm.loss import IGNORED
from metier.train.examples import Examples


@dataclasses.dataclass
class Batch:
    """A micro-batch, rows padded on the right; ``replies`` rows that follow each other are one record's.

    The three numbers ``*_in_step`` are of the whole step, over accumulation and processes: an objective returns its
    sum over the batch divided by one of them. ``share`` is the batch's part of the step's tokens; the shares of a step
    sum to 1. ``seen`` is for objectives with a memory: name → numbers per row [batch].
    """

    input_ids: Tensor  # [batch · replies, time]
    attention_mask: Tensor  # [batch · replies, time], 1 where there is a token
    labels: Tensor  # [batch · replies, time], -100 where nothing is supervised
    weight: Tensor  # [batch], of the records; 1 unless the data has a column `weight`
    numbers: Tensor  # [batch], of the records among all that are trained on
    ids: list[str]
    fields: dict[str, list[Any]]
    tokens_in_step: int  # supervised tokens
    rows_in_step: int
    weight_in_step: float  # weights of the supervised tokens times that of their record, summed
    share: float
    progress: float  # share of the training that is done
    seed: int
    epoch: int
    replies: int = 1
    token_weights: Tensor | None = None  # [batch · replies, time]; None where every supervised token weighs 1
    position_ids: Tensor | None = None  # None counts from 0
    seen: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def weights(self, rows: Tensor) -> Tensor | None:
        """Of the supervised tokens, which lie in ``rows`` [n], times their records': [n]; None where all are 1."""
        found = None
        if bool((self.weight != 1).any()):
            found = self.weight[rows // self.replies]
        if self.token_weights is not None:
            own = self.token_weights[:, 1:][self.labels[:, 1:] != IGNORED]
            found = own if found is None else found * own
        return found

    def generator(self, row: int) -> torch.Generator:
        """Randomness of one record in one epoch: the same whatever batch the record lies in."""
        text = f"{self.seed}\x1f{self.epoch}\x1f{self.ids[row]}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


@dataclasses.dataclass(frozen=True)
class Window:
    """The rows of one step."""

    epoch: int
    rows: np.ndarray
    tokens: int


def plan(
    lengths: np.ndarray, *, seed: int, order: str, batch: int | None, step_tokens: int | None,
    epochs: float | None, steps: int | None, total_tokens: int | None,
) -> list[Window]:  # fmt: skip
    """Every step of a training: windows of each epoch in turn until it has been long enough."""
    found: list[Window] = []
    seen = 0
    for epoch in range(10**9):
        rows = np.arange(len(lengths))
        if order == "buckets":
            rows = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        cut = [Window(epoch, w, int(lengths[w].sum())) for w in _windows(lengths, rows, batch, step_tokens)]
        if epochs is not None and epochs - epoch < 1:
            cut = cut[: math.ceil(len(cut) * (epochs - epoch))]
        for window in cut:
            found.append(window)
            seen += window.tokens
            if len(found) == steps or (total_tokens is not None and seen >= total_tokens):
                return found
        if epochs is not None and epoch + 1 >= epochs:
            return found
    return found


def _windows(lengths: np.ndarray, rows: np.ndarray, batch: int | None, step_tokens: int | None) -> list[np.ndarray]:
    """Even cuts: a short last window would move the weights as far as a full one, on little evidence."""
    if step_tokens is None:
        return np.array_split(rows, math.ceil(len(rows) / (batch or 16)))
    ends = np.cumsum(lengths[rows])
    windows = math.ceil(ends[-1] / step_tokens)
    middles = ends - lengths[rows] / 2
    cuts = np.searchsorted(middles, ends[-1] / windows * np.arange(1, windows))
    return [w for w in np.split(rows, cuts) if len(w)]


def spread(lengths: np.ndarray, total: int) -> Window:
    """Rows evenly spread over all, about ``total`` tokens of them; every row when they are not that many."""
    count = max(1, round(len(lengths) * min(1.0, total / lengths.sum())))
    rows = np.unique(np.linspace(0, len(lengths) - 1, count).round().astype(np.int64))
    return Window(0, rows, int(lengths[rows].sum()))


def micro_batches(lengths: np.ndarray, rows: np.ndarray, budget: int, order: str = "buckets") -> list[np.ndarray]:
    """The rows of a step cut so that rows × longest stays within ``budget`` tokens (a longer row stands alone).

    Longest first, so that memory is highest in the first batch, not in the last.
    """
    if order == "buckets":
        return [rows[batch] for batch in tokens.batches(lengths[rows].tolist(), budget)]
    found: list[list[int]] = []
    longest = 0
    for row in rows.tolist():
        longest = max(longest, int(lengths[row]))
        if not found or (len(found[-1]) + 1) * longest > budget:
            found.append([])
            longest = int(lengths[row])
        found[-1].append(row)
    return [np.array(f) for f in found]


def collate(
    examples: Examples, rows: np.ndarray, window: np.ndarray, *,
    seed: int, epoch: int, progress: float, device: torch.device,
) -> Batch:  # fmt: skip
    """The batch of the records ``rows`` out of the step ``window``; none make an empty batch of unsupervised tokens."""
    replies, lengths = examples.replies, examples.lengths
    each = (rows[:, None] * replies + np.arange(replies)).reshape(-1)
    spans = list(zip(examples.offsets[each], examples.offsets[each + 1], strict=True))
    shape = (max(1, len(rows)) * replies, max((int(end - start) for start, end in spans), default=1))
    ids, labels, mask = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
    weighs = None if examples.token_weights is None else np.zeros(shape, np.float32)
    for i, (start, end) in enumerate(spans):
        ids[i, : end - start] = examples.tokens[start:end]
        labels[i, : end - start] = examples.labels[start:end]
        mask[i, : end - start] = 1
        if weighs is not None and examples.token_weights is not None:
            weighs[i, : end - start] = examples.token_weights[start:end]
    mask[len(spans) :, 0] = 1
    return Batch(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(examples.weights[rows] if len(rows) else np.zeros(1)).float().to(device),
        torch.from_numpy(rows if len(rows) else np.zeros(1, np.int64)).to(device),
        [examples.ids[r] for r in rows],
        {name: [column[r] for r in rows] for name, column in examples.fields.items()},
        int(examples.targets[window].sum()),
        len(window),
        float((examples.target_weights[window] * examples.weights[window]).sum()),
        float(lengths[rows].sum() / lengths[window].sum()) if len(rows) else 0.0,
        progress, seed, epoch, replies,
        None if weighs is None else torch.from_numpy(weighs).to(device),
    )  # fmt: skip
