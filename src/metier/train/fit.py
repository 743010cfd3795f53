"""The supervised loop: look at dev, step, save; go on from a checkpoint; return the best weights.

Per step (`train/run.py`): rate ← schedule; per micro-batch before_batch → objective + terms + penalty → backward; then
edit → clip → optimizer → after_step → memories. Objectives return sum / number-in-the-step, so how a step
is cut into micro-batches, and over how many processes, changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from metier.artefacts import Model, Records
from metier.lm import load
from metier.train import checkpoint
from metier.train.examples import Read
from metier.train.run import Run
from metier.train.setup import Opened, Setup
from metier.train.slots import SLOTS

LOOKS = 5  # at the dev records, unless told otherwise


def fit(
    model: Model, data: Records, setup: Setup, read: Read, owner: str, slots: Sequence[str] = tuple(SLOTS),
    opened: Opened = load.network,
) -> Model:  # fmt: skip
    """Trains and returns the Model that ``parameters`` finishes in ``work.folder/model``; its notes tell the history.

    ``opened`` makes the network that is trained; by default it is the Model's own.
    Goes on from the newest complete checkpoint in ``work.folder/checkpoints``, with the same end. With ``dev`` the
    weights with the best dev loss are returned, the start itself included. The caller's random state is left alone.
    Raises MetierError when slots do not go together, there is nothing to train on, or the loss diverges.
    """
    with own_randomness():
        run = Run(model, data, setup, read, owner, slots, opened)
        run.resume()
        _train(run)
        if run.state.best_step is not None and run.state.best_step != run.state.step:
            run.take(checkpoint.at(run.folder, run.state.best_step))
        return run.finish()


def _train(run: Run) -> None:
    setup, state, steps = run.setup, run.state, len(run.plan)
    every = setup.evaluate_every or math.ceil(steps / LOOKS)
    saved = time.monotonic()
    with setup.work.progress("training", steps) as bar:
        bar.advance(state.step)
        while True:
            due = state.step % every == 0 or state.step == steps
            if run.dev is not None and due and state.evaluated != state.step and run.look():
                run.save()
                saved = time.monotonic()
            tired = setup.patience is not None and state.looks_without_gain >= setup.patience
            if state.step == steps or tired:
                return
            row = run.step()
            run.log(**row)
            bar.advance(1, f"loss {row['loss']:.3f}")
            if time.monotonic() - saved >= setup.checkpoint_every and state.steps_high == 0:
                run.save()
                saved = time.monotonic()


@contextmanager
def own_randomness() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the caller's random state is as before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
