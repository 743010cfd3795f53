"""Preference training: the model learns which of two replies to a prompt is the better one.

For what no single right answer can show: tone, form, caution, what to leave unsaid. After `train.loop.sft`, on prompts
of the same kind; pairs whose better reply the model might have written itself teach most. The objective says how the
two are compared, and one has to be named: `dpo` first; `ipo` or `hinge` where the pairs are few or always agree,
`simpo` where replies differ in length. Not for learning facts, and not for replies that are rated alone (`sft` on the
good ones).

Of a record with more than two replies the best and the worst are taken, by their `scores`; one without two different
replies of different scores is dropped with a reason. With `dev` the objective's own loss is watched.

Paper: 97 (its last stage)
Options: those of every training step (parameters, objective, optimizer, schedule, epochs, dev …).
Raises: MetierError when records have no replies, the objective learns from one reply a record, or the loss diverges.
"""

from __future__ import annotations

from metier.artefacts import Model, Records
from metier.train import examples, fit
from metier.train.setup import Setup

SLOTS = ("parameters", "objective", "terms", "optimizer", "schedule")
REPLIES = 2
EXAMPLE = {"data": "$preferences", "objective": "dpo"}


def train(model: Model, data: Records, setup: Setup) -> Model:
    """The model after comparing the replies in ``data``; with ``dev``, the best one on it."""
    return fit.fit(model, data, setup, examples.pairs, "train.loop.prefer", SLOTS)
