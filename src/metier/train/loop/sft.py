"""Supervised fine-tuning: the model learns to give the replies of example conversations.

For questions with answers, instructions, chats, prompts with completions. Only replies are learnt, the rest is context.
Not for plain documents (`train.loop.pretrain`).

Paper: Ouyang et al., Training language models to follow instructions with human feedback, 2022 (its first stage).
Options: those of every training step (parameters, objective, optimizer, schedule, epochs, dev …).
Raises: MetierError when no record holds a reply, the slots do not go together, or the loss diverges.
"""

from __future__ import annotations

from metier.artefacts import Model, Records
from metier.train import examples, fit
from metier.train.setup import Setup

SLOTS = ("parameters", "objective", "terms", "optimizer", "schedule")


def train(model: Model, data: Records, setup: Setup) -> Model:
    """The model after learning the replies in ``data``; with ``dev``, the best one on it."""
    return fit.fit(model, data, setup, examples.conversations, "train.loop.sft", SLOTS)
