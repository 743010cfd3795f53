from __future__ import annotations

import pytest
import torch

from metier import recipe
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.options import MetierError
from metier.store import Work, silent
from metier.train.loop import pretrain
from metier.train.schedule import plateau
from metier.train.setup import Setup, method

LEVELS = [1.0, 0.5, 0.25]


def looks(*losses: float) -> list[list[float]]:
    return [[i / 10, loss] for i, loss in enumerate(losses)]


def rate(*losses: float, **options: object) -> float:
    given = {"levels": LEVELS, "window": 3, "threshold": 0.1, "cooldown": 0} | options
    return plateau.rate(0.99, looks(*losses), **given)  # type: ignore[arg-type]


def test_it_moves_when_every_one_of_the_last_gains_is_too_small():
    assert rate() == rate(2.0) == rate(2.0, 1.99) == 1.0
    assert rate(2.0, 1.99, 1.98) == 0.5
    assert rate(2.0, 1.8, 1.79) == 1.0  # one of the two gains was large enough
    assert rate(2.0, 2.5, 2.6) == 0.5  # getting worse is no gain
    assert rate(2.0, 1.9, 1.8, threshold=0.0999) == 1.0
    assert rate(2.0, 1.99, 1.98, 1.97) == 0.25 and rate(*[2.0] * 20) == 0.25  # and stays at the last level


def test_after_a_move_it_waits():
    assert rate(2.0, 2.0, 2.0, 2.0, cooldown=1) == 0.5 and rate(2.0, 2.0, 2.0, 2.0, 2.0, cooldown=1) == 0.25
    assert rate(*[2.0] * 6, cooldown=3) == 0.5 and rate(*[2.0] * 7, cooldown=3) == 0.25


def test_early_in_the_training_it_raises_the_rate_when_asked_to():
    assert rate(2.0, 2.0, 2.0, begin=1, up_to=0.8) == 1.0
    assert rate(2.0, 2.0, 2.0, begin=1) == 0.25
    assert rate(*[2.0] * 9, begin=2, up_to=0.8) == 0.5  # up at 0.2 … 0.7, down once at 0.8
    assert rate(2.0, 2.0, 2.0, begin=0, up_to=0.8) == 1.0


def run(toy, folder, progress=silent, **options):
    options = {"levels": [1.0, 0.25, 0.0625], "window": 2, "threshold": 1.0, "cooldown": 1} | options
    return pretrain.train(toy, maker.texts(16), Setup(
        steps=8, batch=4, length=32, parameters="full", dev=maker.texts(4, seed=9), evaluate_every=2,
        schedule=method("train.schedule", "rate", "plateau", **options), checkpoint_every=1e-6,
        optimizer=method("train.optimizer", "optimizer", "sgd", lr=0.01), work=Work(folder, progress),
    ))  # fmt: skip


def test_a_training_follows_its_looks(toy, tmp_path):
    run(toy, tmp_path)
    rows = Work(tmp_path).rows()
    seen = [[row["step"] / 8, row["dev_loss"]] for row in rows if "dev_loss" in row]
    assert len(seen) == 5
    rates = [row["lr"] / 0.01 for row in rows if "lr" in row]
    assert rates == pytest.approx([1, 1, 0.25, 0.25, 0.25, 0.25, 0.0625, 0.0625])  # looks at 0, 2 | 4 waits | 6


@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_training_that_was_killed_goes_on_with_what_it_has_seen(toy, tmp_path, at):
    whole = run(toy, tmp_path / "whole")
    with pytest.raises(Interrupt):
        run(toy, tmp_path / "killed", Stopping(at))
    assert run(toy, tmp_path / "killed").digest == whole.digest
    rates = [[row["lr"] for row in Work(tmp_path / name).rows() if "lr" in row] for name in ("whole", "killed")]
    assert rates[0] == rates[1]


def test_it_needs_dev_and_a_level_to_begin_with(toy, tmp_path):
    text = f"""
a: {{use: model, path: {toy.path}}}
d: {{use: data.ingest.invented}}
b: {{use: train.loop.pretrain, model: $a, data: $d, steps: 1, schedule: {{use: plateau}}}}
"""
    with pytest.raises(MetierError, match=r"train.schedule.plateau: needs 'dev', the records whose loss is watched"):
        recipe.check(recipe.parse(text))
    given = text.replace("steps: 1", "steps: 1, dev: $d")
    assert recipe.check(recipe.parse(given))
    with pytest.raises(MetierError, match="'begin' must be less than 4, the number of levels, got 4"):
        recipe.check(recipe.parse(given.replace("{use: plateau}", "{use: plateau, begin: 4}")))
    with pytest.raises(MetierError, match="'levels' must be"):
        recipe.check(recipe.parse(given.replace("{use: plateau}", "{use: plateau, levels: []}")))
    assert torch.isfinite(torch.tensor(run(toy, tmp_path).notes["loss"]["last"]))
