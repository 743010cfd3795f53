"""Half of a tuned model's matrices go back to the base: forgetting undone without training.

To see in a minute how much of what was forgotten comes back for how much of what was learnt, and which half of the
matrices matters: try several seeds. A weighted average (`linear`) usually keeps more of both. Of several experts it is
the mean that half of is taken back.

    θ = θ₀ for the matrices that are drawn, else the expert's

The draw is that of `train.parameters.half`, by the step's seed.

Paper: 54 (its pilot experiment)
Options:
    share: of the blocks' matrices that goes back; with 1 all do.
    level: what is drawn: in each *category* of a block's matrices, whole blocks (*layer*), or tensors of the *model*.
    embeddings: whether embedding, head and last norm go back as well.
Raises: MetierError when a tensor of the model is of no kind we know, or queries, keys and values alternate in one
    matrix.
Differs: embedding and head stay the expert's unless told; the paper does not say.
"""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from metier.compose.merge import linear
from metier.compose.tensors import Here
from metier.lm import blocks
from metier.lm.blocks import Piece

NAME = "compose.merge.half_reset"
Drawn = Annotated[float, Field(gt=0, le=1)]


def merge(
    base: Tensor, experts: dict[str, Tensor], here: Here, *, share: Drawn = 0.5, level: blocks.Level = "category",
    embeddings: bool = False,
) -> Tensor:  # fmt: skip
    """The tensor with the drawn slices of the base; ``here.survey`` holds the shapes of all."""
    merged = linear.merge(base, experts, here)
    back = _back(tuple(here.survey.items()), share, level, embeddings, here.seed)
    for piece in back.get(here.name, ()):
        piece.of(merged).copy_(piece.of(base))
    return merged


def survey(base: Tensor, experts: dict[str, Tensor]) -> tuple[int, ...]:
    return tuple(base.shape)


@functools.lru_cache(maxsize=1)
def _back(
    shapes: tuple[tuple[str, tuple[int, ...]], ...], share: float, level: blocks.Level, embeddings: bool, seed: int
) -> dict[str, list[Piece]]:
    """Tensor → what of it goes back; one draw for the whole model."""
    pieces = blocks.roles(NAME, dict(shapes))
    drawn = set(blocks.half(pieces, share, level, torch.Generator().manual_seed(seed)))
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece in drawn or (embeddings and piece.block is None):
            found.setdefault(piece.tensor, []).append(piece)
    return found
