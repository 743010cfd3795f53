"""Units that carry old knowledge learn less: steps are scaled by one minus importance.

For pre-training on one field after another without keeping old data (DAS). What matters for general knowledge is
estimated once from the first field's text, what matters for a field after it was learnt; importances are the largest of
all so far. The forward pass stays whole, so new fields still profit from old ones. Not for a single short training: a
look at the gradients and a plain small rate are simpler. An importance is relative within its block: every block has
units near 1, also an unimportant one.

    I = |tanh((∂L/∂g − mean) / std)| per block;   Δθ ← (1 − I) ⊗ Δθ

`fit` gives the importance: with the signal *agreement* of general knowledge (how far two passes under dropout differ,
without any general text), with *loss* of the field that was just learnt; `previous` is what it adds to. Then
`prepare` trains with it: rows of q, k, v and columns of o for heads; rows of gate and up for inner neurons; rows of
down for outputs. Embedding, norms and head are not scaled. Where I is 1 the weight stays bit for bit.

Paper: 37
Options:
    importance: what `fit` made.
    parts: the kinds of units that are protected.
    of: whether a weight's *step* is multiplied by 1 − I, or its *gradient*, as in the paper.
    previous: importance so far; each unit keeps its largest.
    signal: what the gates move: *agreement* of two passes (KL of their words), or the *loss*.
    absolute: whether signs are dropped for *each* row, or *after* the sum.
    dropout: of the two passes, behind embedding, attention and feed-forward part.
    max_tokens: of the text that is looked at, evenly spread.
    seed: of the dropout.
Raises: MetierError when there is nothing to look at, the two passes do not differ, or the importance is of another
    kind of model.
Differs: the paper scales the gradient; Adam divides a gradient by its own size, so that only 0 would survive, and here
    it is the step that is scaled, the same for plain gradient descent. Heads are the rows of q, k, v (the code scales
    columns); the bias of o is not scaled; agreement is that of the words, not of hidden states along the text; keys and
    values of a group have its largest importance.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metier.artefacts import Model, Part, Records
from metier.lm import blocks, load
from metier.lm import loss as lm_loss
from metier.lm.blocks import Heads, Piece
from metier.options import Count, MetierError, Seed
from metier.store import Work
from metier.train import teacher, units
from metier.train.batches import Batch
from metier.train.fit import own_randomness
from metier.train.parameters import _masks, _rows, full
from metier.train.setup import Network, Trainable

NAME = "train.parameters.das"
NEEDS = {"gradient": "whole", "update": "step"}
Dropout = Annotated[float, Field(gt=0, lt=1)]
LEAST = 1e-12  # nats by which the two passes differ


def prepare(
    network: Network, *, importance: Part, parts: list[units.Kind] = ["head", "ffn", "out"],  # noqa: B006
    of: Literal["step", "gradient"] = "step",
) -> Trainable:  # fmt: skip
    """Everything trains, as far as it is not important; an adapter the model carries is folded in first."""
    made = full.prepare(network)
    module: Any = made.network.module
    known = units.read(NAME, importance, module)
    named = dict(module.named_parameters())
    heads = blocks.heads(module.config)
    pieces = blocks.roles(NAME, {name: p.shape for name, p in named.items()}, heads)
    fixed = _masks.Fixed(factors(named, pieces, {kind: known[kind] for kind in parts}, heads), of)
    return dataclasses.replace(made, edit=fixed.edit, after_step=fixed.after_step)


def fit(
    model: Model, data: Records, *, previous: Part | None = None, signal: Literal["agreement", "loss"] = "agreement",
    absolute: Literal["each", "after"] = "each", dropout: Dropout = 0.1, max_tokens: Count = 200_000, seed: Seed = 0,
    work: Work,
) -> Part:  # fmt: skip
    """Importance of heads [blocks, heads], inner neurons [blocks, inner] and outputs [blocks, width], each 0 to 1."""
    network, tokenizer = load.network(model, merged=True)
    network.requires_grad_(False)
    steps = _rows.steps(NAME, network, tokenizer, data, max_tokens)
    sizes = units.sizes(NAME, network)
    device = next(network.parameters()).device
    found = {kind: torch.zeros(size, device=device) for kind, size in sizes.items()}
    total, tokens = 0.0, 0
    with own_randomness(), work.progress("importance", max_tokens) as bar:
        torch.manual_seed(seed)
        for batch in (batch for step in steps for batch in step):
            rows = len(batch.input_ids)
            gates = {kind: torch.ones(rows, *size, device=device, requires_grad=True) for kind, size in sizes.items()}
            value = _signal(network, batch, gates, signal, dropout)
            for kind, gradient in zip(gates, torch.autograd.grad(value, list(gates.values())), strict=True):
                found[kind] += (gradient.abs() if absolute == "each" else gradient).sum(0)
            total, tokens = total + float(value.detach()), tokens + int(batch.attention_mask.sum())
            bar.advance(int(batch.attention_mask.sum()))
    if total < LEAST:
        raise MetierError(f"{NAME}: the two passes of the model do not differ, so no unit can be told from another")
    importances = [{kind: units.normalised(tensor) for kind, tensor in found.items()}]
    if previous is not None:
        importances.append(units.read(NAME, previous, network))
    mean = {kind: float(tensor.mean()) for kind, tensor in units.accumulated(importances).items()}
    return units.write(units.accumulated(importances), {"signal": signal, "tokens": tokens, "mean": mean}, work)


def factors(
    named: dict[str, nn.Parameter], pieces: list[Piece], importance: units.Importance, heads: Heads
) -> list[_masks.Factor]:
    """1 − I for the gradients of each tensor that has units along one of its axes."""
    order = sorted({piece.block for piece in pieces if piece.block is not None})
    found: dict[str, _masks.Factor] = {}
    for piece in pieces:
        if piece.block is None or piece.is_norm or (piece.role == "o" and named[piece.tensor].dim() == 1):
            continue
        kept = _kept(piece.role, {kind: 1 - tensor[order.index(piece.block)] for kind, tensor in importance.items()},
                     heads)  # fmt: skip
        if kept is None:
            continue
        weight = named[piece.tensor]
        axis = 1 - piece.axis if piece.role == "o" else piece.axis
        if piece.tensor not in found:
            found[piece.tensor] = _masks.Factor(weight, torch.ones(weight.shape[axis], device=weight.device), axis)
        values = found[piece.tensor].values
        own = values if piece.role == "o" else piece.outputs(values)
        own.copy_(kept.view(own.shape))
    return list(found.values())


def _kept(role: str, free: units.Importance, heads: Heads) -> Tensor | None:
    """What each output of a matrix (each input of o) may move, of its block's units; None if nothing scales it."""
    if role in ("q", "o") and "head" in free:
        return free["head"].repeat_interleave(heads.size)
    if role in ("k", "v") and "head" in free:
        return free["head"].view(heads.groups, -1).amin(1).repeat_interleave(heads.size)
    if role in ("gate", "up") and "ffn" in free:
        return free["ffn"]
    return free["out"] if role == "down" and "out" in free else None


def _signal(network: nn.Module, batch: Batch, gates: dict[str, Tensor], signal: str, dropout: float) -> Tensor:
    """Summed over the supervised positions: a scalar whose gradient at the gates is what the units matter."""

    def asked() -> lm_loss.Supervised:
        return lm_loss.supervised(network, batch.input_ids, batch.labels, batch.position_ids)

    if signal == "loss":
        with units.gated(NAME, network, gates):
            return asked().loss()
    with units.dropped(NAME, network, dropout):
        with units.gated(NAME, network, gates):
            words = torch.log_softmax(teacher.logits(asked()).float(), -1)
        with torch.no_grad():
            other = torch.log_softmax(teacher.logits(asked()).float(), -1)
    return (words.exp() * (words - other)).sum()
