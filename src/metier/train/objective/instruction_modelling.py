"""Learns what is asked too, not only the replies; the template's marks are left out.

For small data sets and for long instructions with short answers: with more words to foresee the answers are fitted less
tightly, which helps where plain training overfits. Take it when instructions are longer than replies, or when there
are under two or three thousand records; else stay with `cross_entropy`. Not for instructions that hold what the model
must never say: private or harmful words are learnt as its own.

    L = ( Σ l of replies + weight · Σ l of messages ) / ( n of replies + weight · n of messages )

over all tokens of a step. Messages are those of system, user and tools; replies of weight 0 are never learnt. With
weight 0 it is `cross_entropy`. Training losses of the two are over different tokens and say nothing side by side: the
loss on `dev` is over replies alone, whatever the objective.

Paper: 107
Options:
    learn: *words* of all messages and replies; *all*, the template's marks as well; or *replies* alone.
    weight: of a token that is not the assistant's, beside 1 for those that are.
Raises: MetierError, when records are read, for a chat template that cuts up a message.
Differs: the paper knows no weight (it is 1). Its code looks for the marks' token ids and, by a slip, learns the mark of
    the assistant; here words are found by their place in the text. A record without a reply within `length` is dropped,
    though its instruction could be learnt. In a prompt with a completion the whole prompt is the user's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor, nn

from metier.lm.speakers import ASSISTANT, SYSTEM, TEMPLATE, TOOL, USER, Roles
from metier.options import Share
from metier.train.batches import Batch
from metier.train.objective import cross_entropy

Learn = Literal["words", "all", "replies"]
LEARNT = {"replies": (), "words": (SYSTEM, USER, TOOL), "all": (SYSTEM, USER, TOOL, TEMPLATE)}


def loss(model: nn.Module, batch: Batch, *, learn: Learn = "words", weight: Share = 1.0) -> Tensor:
    """The batch's part of the step's mean, in nats per token: a scalar. The options did their work in ``supervise``."""
    return cross_entropy.loss(model, batch)


def supervise(roles: Roles, *, learn: Learn = "words", weight: Share = 1.0) -> np.ndarray:
    """The weight of every token, 0 where nothing is learnt: [time]."""
    return np.where(roles == ASSISTANT, 1.0, np.where(np.isin(roles, LEARNT[learn]), weight, 0.0))
