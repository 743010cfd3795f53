"""Trains on one set of records after another; each stage starts where the last one ended.

For curricula and order: texts first and questions after, simple before hard, one field after another. Each stage is
a whole training of its own, with its own schedule, fresh optimizer state and the same slots; an adapter is carried on,
not stacked. With one stage it is the inner loop itself. Not for mixing sources (`blend`).

    θ₀ = model;  θₖ = inner(θₖ₋₁, dataₖ);  the result is the last θ

`epochs`, `steps` and `tokens` count for each stage, and so does `dev`, whose best weights a stage ends with. Finished
stages are kept until the end, so a training that is killed in the third goes on in the third.

Options:
    inner: the loop each stage runs; those of every training step apply to it.
Raises: MetierError when there is no stage, or from the inner loop.
"""

from __future__ import annotations

import dataclasses
import functools

from metier.artefacts import Model, Records
from metier.options import MetierError, Train
from metier.train.rounds import _logs
from metier.train.setup import Setup, derive, method


def train(model: Model, data: list[Records], setup: Setup, *, inner: Train = "sft") -> Model:  # type: ignore[assignment]
    """The model after the last stage; its notes tell the history of each."""
    if not data:
        raise MetierError("train.rounds.stages: needs one set of records or more, got none")
    loop = method("train.loop", "train", inner) if isinstance(inner, str) else inner
    history = []
    for number, records in enumerate(data[:-1], start=1):
        stage = functools.partial(_stage, loop, model, records, number)
        model = setup.once(f"stage-{number}", stage)
        history.append(model.notes)
    _logs.put_first(setup.work, _logs.inner(setup.work, [f"stage-{n}" for n in range(1, len(data))]))
    model = _stage(loop, model, data[-1], len(data), setup)
    history.append(model.notes)
    totals = {name: sum(h[name] for h in history) for name in ("steps", "tokens_trained", "seconds")}
    return dataclasses.replace(model, notes=model.notes | totals | {"stages": history})


def _stage(loop: Train, model: Model, records: Records, number: int, setup: Setup) -> Model:
    # The first stage has the seed as it is, so that a training of one stage is the inner loop's.
    seed = setup.seed if number == 1 else derive(setup.seed, "stage", number)
    trained: Model = loop(model, records, dataclasses.replace(setup, seed=seed))
    return trained
