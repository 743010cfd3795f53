"""Training a classifier: a text, a prompt or a conversation in, one of a few labels out.

For sorting, routing, filtering and judging: cheaper and surer than a chat that is asked for the label. Records need a
column `label` (text), and a `text`, a `prompt` or `messages`; the labels are those of the records. The word head of a
language model gives way to a row of classes that begins at zero; a model that is a classifier already goes on with the
labels it has. The result is a plain sequence-classification folder of transformers or peft, and a Chat whose only words
are its labels: tasks, routes and guards take it like any other.

    L = Σ_b w_b · −log p(label_b | text_b) / Σ_b w_b        with the objective *cross_entropy*

The class stands where the next word would stand, so every objective serves. The head trains whatever `parameters` says:
*freeze* with nothing else to train is a probe of the model as it is.

Options: those of every training step (parameters, objective, optimizer, schedule, epochs, dev …).
Raises: MetierError when there is no column `label`, a single label, a label the classifier does not know, or the loss
    diverges.
Differs: the head starts from zero, not from noise, so the first loss is log(number of labels) and needs no seed.
"""

from __future__ import annotations

import dataclasses
import functools

from torch import nn
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Model, Records
from metier.lm import heads, load
from metier.options import MetierError
from metier.train import examples, fit
from metier.train.setup import Setup

SLOTS = ("parameters", "objective", "terms", "optimizer", "schedule")
SPEAKERS = False  # labels are learnt, no words
NAME = "train.loop.head"


def train(model: Model, data: Records, setup: Setup) -> Model:
    """The classifier; with ``dev``, the best one on it."""
    labels = heads.labels_of(model) if model.head == "labels" else _labels(data)

    def opened(model: Model) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        if model.head == "labels":
            return load.network(model)
        return heads.attach(*load.network(model, merged=True), labels)

    read = functools.partial(examples.labelled, labels=labels)
    made = fit.fit(model, data, setup, read, NAME, SLOTS, opened)
    return dataclasses.replace(made, head="labels", notes=made.notes | {"labels": labels})


def _labels(data: Records) -> list[str]:
    found = sorted({str(label) for label in data.column("label") if label is not None})
    if len(found) < 2:
        only = f"there is only '{found[0]}'" if found else "no record has one"
        raise MetierError(f"{NAME}: needs records with two labels or more; {only}")
    return found
