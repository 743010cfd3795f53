"""Several models answer as one: at every token their distributions are averaged.

An ensemble, and the plain baseline of every method that decodes with several models: a specialist beside the model it
came from loses less of the old and keeps some of the new. It costs a forward pass of each model a token; where the
models come from one base, merging their weights costs nothing more than one of them. All must have the same tokens. The
first chat's template is used for all.

    probability:  p = Σ wₖ pₖ          log:  log p = Σ wₖ log pₖ − log Z          Σ wₖ = 1

Options:
    weights: chat → weight, divided by their sum; all alike when not given. Chats of weight 0 are not asked.
    space: average *probability* (a token is likely if any model finds it likely) or *log* (if no model objects).
Raises: MetierError when the weights name a chat that is not there or are all 0, a chat is no model with its weights at
    hand, or (when first asked) tokens differ.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from metier.lm.chat import Access, Chat
from metier.lm.lockstep import Lockstep
from metier.options import MetierError, NonNegative, unknown

NAME = "infer.decode.lockstep"
NEEDS = {"access": "weights"}
GIVES: Access = "logits"
OFF = {"weights": {"base": 1.0}}


def wrap(
    chats: dict[str, Chat], *, weights: dict[str, NonNegative] | None = None,
    space: Literal["probability", "log"] = "probability",
) -> Chat:  # fmt: skip
    shares = shares_of(list(chats), weights)
    if len(shares) == 1:
        return chats[next(iter(shares))]
    held = {name: chats[name] for name in shares}
    return Lockstep(NAME, held, lambda logits: average(logits, shares, space), sorted(shares.items()), space)


def average(logits: dict[str, Tensor], shares: dict[str, float], space: Literal["probability", "log"]) -> Tensor:
    """[n, vocab] of each → log-probabilities (in *log* space without their norm) of all."""
    scores = {name: torch.log_softmax(one, -1) for name, one in logits.items()}
    if space == "log":
        return torch.stack([scores[name] * shares[name] for name in sorted(shares)]).sum(0)
    return torch.stack([scores[name] + math.log(shares[name]) for name in sorted(shares)]).logsumexp(0)


def shares_of(names: list[str], weights: dict[str, float] | None) -> dict[str, float]:
    """Weights that are not 0, in the order of the chats, of sum 1."""
    given = dict.fromkeys(names, 1.0) if weights is None else weights
    for name in given:
        if name not in names:
            raise unknown(NAME, name, names, "chat")
    total = math.fsum(given.values())
    if not total:
        raise MetierError(f"{NAME}: there is no chat with a weight above 0")
    return {name: given[name] / total for name in names if given.get(name)}
