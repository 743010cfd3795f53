"""A few real steps before the training proper: which learning rate helps most, how many tokens there are."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from metier.artefacts import Model, Records
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.train import batches, examples
from metier.train.fit import own_randomness
from metier.train.run import Run
from metier.train.setup import Setup, method


def rates(
    model: Model, data: Records, setup: Setup, *, rates: list[float], steps: int, work: Work,
    read: examples.Read = examples.packed,
) -> list[dict[str, Any]]:  # fmt: skip
    """Trains ``steps`` steps with each rate, held constant, from the same start on the same windows.

    Returns per rate ``lr``, ``dev_loss_before``, ``dev_loss_after`` (nats a token on ``setup.dev``; infinite when it
    diverged), ``tokens`` and ``seconds`` of training, ``dev_tokens`` and ``dev_seconds`` of one look. The network is
    loaded once and no file is written. Raises MetierError when there is no ``dev``.
    """
    if setup.dev is None or not len(setup.dev):
        raise MetierError("plan: needs 'dev', the records whose loss decides")
    constant = method("train.schedule", "rate", "constant")
    trial = dataclasses.replace(setup, steps=steps, epochs=None, tokens=None, schedule=constant, work=work)
    with own_randomness(), work.progress("trying learning rates", len(rates) * steps) as bar:
        run = Run(model, data, trial, read, "plan")
        assert run.dev is not None
        start = {name: weight.detach().clone() for name, weight in run.weights.items()}
        own = {k: v.clone() for k, v in run.trainable.state().items()} if run.trainable.state else {}
        begun = time.monotonic()
        before = run.dev_loss()
        looked = batches.spread(run.dev.examples.lengths, setup.dev_tokens).tokens
        dev_seconds = time.monotonic() - begun
        found = []
        for rate in rates:
            with torch.no_grad():
                for name, weight in start.items():
                    run.weights[name].copy_(weight)
            if run.trainable.load:
                run.trainable.load(own)
            run.begin()
            run.rates = [rate] * len(run.rates)
            try:
                for _ in run.plan:
                    run.step()
                    bar.advance(1, f"rate {rate:g}")
                after = run.dev_loss()
            except MetierError:
                after = float("inf")
            found.append({"lr": rate, "dev_loss_before": before, "dev_loss_after": after, "tokens": run.state.tokens,
                          "seconds": run.state.seconds, "dev_tokens": looked,
                          "dev_seconds": dev_seconds})  # fmt: skip
        return found


def tokens(model: Model, data: Records, setup: Setup, read: examples.Read = examples.packed) -> int:
    """Tokens of one pass over the data, as the loop that uses ``read`` would cut them."""
    return int(read(load.tokenizer_of(model), data, setup.length, examples.PLAIN).lengths.sum())
