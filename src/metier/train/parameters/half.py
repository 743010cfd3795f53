"""A random half of each block's matrices moves, the rest is frozen; each stage redraws.

In place of full fine-tuning where much must be kept: the frozen half holds old knowledge, and the result is a plain
model. Strongest over a sequence of tasks (`train.rounds.stages`), where every stage draws another half and begins with
fresh optimizer state. Backward still goes through all blocks, so it saves state and the gradients of frozen matrices,
not half of the time. Not for a single small task, where an adapter forgets less.

    ϑ ← ϑ − lr · ∇_ϑ L,   ψ fixed;   ϑ drawn by seed and stage

*category*: of q, k, v, o two; of gate, up, down two in a random half of the blocks and one in the others; of two norms
one. Other shares in the same way. *layer*: whole blocks. *model*: tensors of all blocks, until the share of their
numbers is reached. A bias goes with its matrix. Of queries, keys and values in one matrix the frozen rows are masked.

Paper: 54
Options:
    share: of the blocks' matrices that moves; 1 is full fine-tuning. Good are 0.4 to 0.6.
    level: what is drawn.
    embeddings: whether embedding and head move; the last norm always does.
Raises: MetierError when a tensor of the model is of no kind we know, or nothing is left to train.
Differs: an odd number of blocks has the smaller half with two of three; norms of queries and keys go with their
    matrix; *model* draws among the blocks' tensors only. It draws by stage, not by epoch, since another half needs
    fresh optimizer state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from metier.artefacts import Model, Part
from metier.lm import blocks
from metier.lm.blocks import Piece
from metier.lm.loss import is_classifier
from metier.train.parameters import _masks, freeze
from metier.train.setup import Network, Trainable

NAME = "train.parameters.half"
Drawn = Annotated[float, Field(gt=0, le=1)]


def prepare(
    network: Network, *, share: Drawn = 0.5, level: blocks.Level = "category", embeddings: bool = True
) -> Trainable:
    """An adapter the model carries is folded in first."""
    network = freeze.dense(network)
    module: Any = network.module
    named: dict[str, nn.Parameter] = dict(module.named_parameters())
    pieces = blocks.roles(NAME, {name: p.shape for name, p in named.items()}, blocks.heads(module.config))
    drawn = set(blocks.half(pieces, share, level, torch.default_generator))
    tables = {"embedding"} if is_classifier(module) else {"embedding", "head"}
    outside = [piece for piece in pieces if piece.block is None and (embeddings or piece.role not in tables)]
    moving = {piece.tensor for piece in [*drawn, *outside]}
    made = freeze.prepare(network, train=["*"], keep=[name for name in named if name not in moving])
    fixed = _masks.Fixed([_factor(named[name], name, pieces, drawn) for name in sorted(moving)], "gradient")
    told = _told([p for p in pieces if p.block is not None], drawn) | {"level": level}

    def finish(folder: Path) -> Model | Part:
        model = made.finish(folder)
        return dataclasses.replace(model, notes=model.notes | {"half": told})

    if not fixed.factors:
        return dataclasses.replace(made, finish=finish)
    return dataclasses.replace(made, finish=finish, edit=fixed.edit, after_step=fixed.after_step)


def _factor(weight: nn.Parameter, name: str, pieces: Sequence[Piece], drawn: set[Piece]) -> _masks.Factor:
    """1 for the outputs that move; only a fused tensor has others."""
    own = [piece for piece in pieces if piece.tensor == name]
    values = torch.ones(weight.shape[own[0].axis])
    for piece in own:
        if piece.block is not None and piece not in drawn:
            piece.outputs(values).zero_()
    return _masks.Factor(weight, values, own[0].axis)


def _told(inside: Sequence[Piece], drawn: set[Piece]) -> dict[str, Any]:
    """Two shares, since half of the matrices is not half of the numbers: keys and values may be small."""
    units = {piece.unit for piece in inside}
    moving = {piece.unit for piece in drawn}
    return {
        "matrices": len(moving) / len(units),
        "numbers": sum(p.size for p in inside if p in drawn) / sum(p.size for p in inside),
        "moving": [f"{p.tensor} ({p.role})" if p.part else p.tensor for p in inside if p in drawn],
    }
