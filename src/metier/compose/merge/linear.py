"""A weighted average of the weights of models that come from one base.

The first merge to try: between a base and its specialist it gives back general skills for a little of the gain
(WiSE-FT), and several specialists become one model of the same size. Not for models of different bases, and where the
experts pull in opposite directions one that settles the conflict is better.

    θ = (1 − Σ wₖ) θ₀ + Σ wₖ θₖ        computed in float64, rounded once

Paper: 8 (its baseline WiSE-FT: Wortsman et al., Robust fine-tuning of zero-shot models, 2022)
Options:
    weights: expert → weight; 1 / n each when not given. What they lack to 1 is the base's; a sum above 1 goes beyond.
    normalise: weights are divided by their sum, so that the base has no share.
Raises: MetierError when the weights do not name the experts, or cannot be normalised.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metier.compose.tensors import Here
from metier.compose.weights import chunks
from metier.options import MetierError, Real


def merge(
    base: Tensor, experts: dict[str, Tensor], here: Here, *, weights: dict[str, Real] | None = None,
    normalise: bool = False,
) -> Tensor:  # fmt: skip
    shares = shares_of(list(experts), weights, normalise)
    rest = 1.0 - math.fsum(shares.values())
    parts = [(rest, base), *((shares[name], experts[name]) for name in sorted(experts))]
    parts = [(share, tensor) for share, tensor in parts if share]  # so that a weight of 1 gives the expert itself
    mixed = torch.empty(base.shape, dtype=base.dtype)
    for out, *pieces in chunks(mixed, *(tensor for _, tensor in parts)):
        total = torch.zeros(out.shape, dtype=torch.float64)
        for (share, _), piece in zip(parts, pieces, strict=True):
            total.add_(piece.double(), alpha=share)
        out.copy_(total)
    return mixed


def shares_of(names: list[str], weights: dict[str, float] | None, normalise: bool) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(names, 1.0 / len(names))
    if set(weights) != set(names):
        named = sorted(weights)
        raise MetierError(f"compose.merge.linear: 'weights' must name the experts {sorted(names)}, got {named}")
    if not normalise:
        return dict(weights)
    total = math.fsum(weights.values())
    if total == 0:
        raise MetierError("compose.merge.linear: 'weights' of sum 0 cannot be normalised")
    return {name: weight / total for name, weight in weights.items()}
