"""How much a block or a tensor matters to given records: loss without it, weight times gradient, turn of the stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from metier import shapes
from metier.artefacts import Records, Row
from metier.lm import expand, size
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.train import batches, examples
from metier.train.batches import Batch
from metier.train.examples import Examples
from metier.train.setup import Network
from metier.train.state import accelerator

LENGTH = 512  # tokens of a record that are looked at
Pool = Literal["last", "mean"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """Records of one kind that importance is measured on, cut to ``LENGTH`` tokens; ``rows`` are those looked at."""

    examples: Examples
    rows: np.ndarray
    device: torch.device

    def batches(self, at_once: int = 1) -> list[Batch]:
        """Of ``at_once`` tokens or fewer; with 1 every record stands alone."""
        cut = batches.micro_batches(self.examples.lengths, self.rows, at_once)
        return [
            batches.collate(self.examples, rows, self.rows, seed=0, epoch=0, progress=0.0, device=self.device)
            for rows in cut
        ]


def probes(owner: str, network: Network, data: Records, tokens: int) -> list[Probe]:
    """The conversations and the texts of ``data``, whichever there are, about ``tokens`` tokens of them in all.

    The rows are evenly spread over the records, so that they are the same every time. Of conversations the replies
    count (of several replies to a prompt the best), of all other records everything that is said.
    Raises MetierError when there is no record.
    """
    if not len(data):
        raise MetierError(f"{owner}: there is no record to measure importance on")
    kinds: dict[bool, list[Row]] = {}
    for row in data:
        reply = _reply(row)
        kinds.setdefault(reply is not None, []).append(reply or {"id": row["id"], "text": shapes.words(row)})
    device = next(network.module.parameters()).device
    found = []
    for rows in kinds.values():
        read = examples.conversations(network.tokenizer, Records.from_rows(rows), LENGTH)
        found.append(Probe(read, batches.spread(read.lengths, tokens // len(kinds)).rows, device))
    return found


def _reply(row: Row) -> Row | None:
    """The form of a record that has a reply: messages, or a prompt and a completion."""
    if row.get("messages"):
        return {"id": row["id"], "messages": row["messages"]}
    said = row.get("completion")
    if said is None and row.get("replies"):
        said = max(zip(row["scores"], row["replies"], strict=True), key=lambda side: (side[0] is not None, side[0]))[1]
    return None if said is None else {"id": row["id"], "prompt": row["prompt"], "completion": said}


@torch.no_grad()
def ablation(network: nn.Module, probes: Sequence[Probe], owner: str) -> Tensor:
    """I_l = L without block l − L, in nats a token: [blocks], float64."""
    blocks = expand.blocks(network, owner)
    whole = _loss(network, probes)
    found = []
    for block in blocks:
        with expand.bypassed(block):
            found.append(_loss(network, probes) - whole)
    return torch.stack(found)


def taylor(network: nn.Module, probes: Sequence[Probe], tensors: Sequence[Tensor]) -> Tensor:
    """Σ_j |θ_j · ∂L/∂θ_j| of each tensor, the mean over records (each alone) and then over kinds: [tensors], float64.

    The tensors must require gradients; their ``.grad`` is not touched. Several processes share the records.
    """
    processes = accelerator()
    total = torch.zeros(len(tensors), dtype=torch.float64)
    with _evaluating(network), torch.enable_grad():
        for probe in probes:
            alone = probe.batches()
            found = torch.zeros_like(total, device=probe.device)
            for batch in alone[processes.process_index :: processes.num_processes]:
                picked = lm_loss.supervised(network, batch.input_ids, batch.labels)
                mean = picked.loss() / len(picked.labels)
                gradients = torch.autograd.grad(mean, list(tensors), materialize_grads=True)
                found += torch.stack([(g * t.detach()).abs().sum().double()
                                      for g, t in zip(gradients, tensors, strict=True)])  # fmt: skip
            total += processes.reduce(found, "sum").cpu() / len(alone)
    return total / len(probes)


def summed(found: Tensor) -> Tensor:
    """Of [blocks, tensors]: the sum of a block, 1 for the largest: [blocks]."""
    sums = found.sum(1)
    return sums / sums.max().clamp_min(torch.finfo(found.dtype).tiny)


def ranked(found: Tensor) -> Tensor:
    """Of [blocks, tensors]: 1 − mean over tensors of rank / blocks, where the most important block has rank 1."""
    ranks = found.argsort(dim=0, descending=True, stable=True).argsort(dim=0) + 1
    return 1 - ranks.double().mean(1) / len(found)


@torch.no_grad()
def profile(network: nn.Module, probes: Sequence[Probe], span: int, pool: Pool, owner: str) -> Tensor:
    """How far ``span`` blocks turn the stream, the mean over sequences: [blocks − span + 1] in [0, 1], float64.

    ``pool``: at the last token of a sequence, or the mean over its tokens.
    """
    blocks, processes = expand.blocks(network, owner), accelerator()
    total = torch.zeros(len(blocks) - span + 1, dtype=torch.float64, device=probes[0].device)
    with _evaluating(network):
        for batch in _shared(network, probes):
            mask = batch.attention_mask.bool()
            if pool == "last":
                mask &= mask.flip(1).cumsum(1).flip(1) == 1
            seen = _passing(network, blocks, batch, mask)
            weights = (mask / mask.sum(1, keepdim=True))[mask].double()  # those of a sequence sum to 1
            total += torch.stack([(turn(seen[n], seen[n + span]) * weights).sum() for n in range(len(total))])
    return processes.reduce(total, "sum").cpu() / sum(len(probe.rows) for probe in probes)


def turn(before: Tensor, after: Tensor) -> Tensor:
    """The angle between vectors [n, dim] over π: [n] in [0, 1], float64."""
    u, v = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (before, after))
    return 2 / torch.pi * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


def _passing(network: nn.Module, blocks: nn.ModuleList, batch: Batch, mask: Tensor) -> list[Tensor]:
    """The stream below each block and above the last one, where ``mask`` [batch, time] is set: each [n, dim]."""
    seen: list[Tensor] = []
    with expand.watched(blocks, lambda hidden: seen.append(hidden[mask])):
        lm_loss.decoder(network)(input_ids=batch.input_ids, use_cache=False)
    return seen


def _loss(network: nn.Module, probes: Sequence[Probe]) -> Tensor:
    """Nats a token, the mean over kinds of records: a scalar, float64."""
    processes = accelerator()
    total = torch.zeros((), dtype=torch.float64)
    with _evaluating(network):
        for probe in probes:
            found = torch.zeros(2, dtype=torch.float64, device=probe.device)
            for batch in _shared(network, [probe]):
                losses = lm_loss.supervised(network, batch.input_ids, batch.labels).per_token()
                found += torch.stack([losses.double().sum(), torch.tensor(float(len(losses)), device=probe.device)])
            nats, count = processes.reduce(found, "sum").cpu()
            total += nats / count
    return total / len(probes)


def _shared(network: nn.Module, probes: Sequence[Probe]) -> Iterator[Batch]:
    """This process's part of the batches."""
    processes = accelerator()
    for probe in probes:
        cut = probe.batches(size.at_once(network, probe.device))
        yield from cut[processes.process_index :: processes.num_processes]


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
