"""Continued pre-training: the model reads texts and learns to predict every token of them.

For documents without questions: it teaches the language and the facts of a field, not how to answer. Chunks of one
document are joined again, documents are separated by a mark, and the stream is cut into rows of `length` tokens, so
nothing is padded and nothing is lost. Mix in general text to keep general skills.

Paper: Gururangan et al., Don't Stop Pretraining, 2020.
Options: those of every training step (parameters, objective, optimizer, schedule, epochs, dev …).
Raises: MetierError when the records hold no text, the slots do not go together, or the loss diverges.
"""

from __future__ import annotations

from metier.artefacts import Model, Records
from metier.train import examples, fit
from metier.train.setup import Setup

SLOTS = ("parameters", "objective", "terms", "optimizer", "schedule")
SPEAKERS = False  # a text is nobody's turn


def train(model: Model, data: Records, setup: Setup) -> Model:
    """The model after reading ``data`` (records with a ``text``); with ``dev``, the best one on it."""
    return fit.fit(model, data, setup, examples.packed, "train.loop.pretrain", SLOTS)
