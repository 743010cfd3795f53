from __future__ import annotations

import math

import pytest

from metier import recipe
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.options import MetierError
from metier.store import Work
from metier.train import examples
from metier.train.loop import prefer, sft
from metier.train.run import Run
from metier.train.setup import Setup, method

FAST = method("train.optimizer", "optimizer", "adamw", lr=1e-2)


def preferences(count=8, seed=0):
    return Records.from_rows(
        {"id": f"{seed}/{row['id']}", "prompt": row["messages"][:1],
         "replies": ["valve valve", row["messages"][1]["content"]], "scores": [0.0, 1.0]}
        for row in maker.questions(count, seed)
    )  # fmt: skip


def run(toy, folder, **changes):
    given = {"steps": 3, "batch": 4, "length": 64, "objective": "dpo", "optimizer": FAST, "parameters": "full"}
    return Run(toy, preferences(), Setup(**(given | changes), work=Work(folder)), examples.pairs, prefer.__name__)


def test_pairs_that_say_nothing_are_dropped_with_a_reason(toy, tmp_path):
    asked = [{"role": "user", "content": "river"}]
    odd = [
        {"id": "equal", "prompt": asked, "replies": ["north", "north"], "scores": [1.0, 0.0]},
        {"id": "tied", "prompt": asked, "replies": ["north", "south"], "scores": [1.0, 1.0]},
        {"id": "alone", "prompt": asked, "replies": ["north"], "scores": [1.0]},
        {"id": "long", "prompt": [{"role": "user", "content": "river " * 90}], "replies": ["a", "of"],
         "scores": [1.0, 0.0]},
    ]  # fmt: skip
    prefer.train(toy, Records.from_rows([*preferences(), *odd]), Setup(
        steps=1, length=64, objective="dpo", work=Work(tmp_path)
    ))  # fmt: skip
    logged = next(row for row in Work(tmp_path).rows() if "kept" in row)
    assert logged["kept"] == 8 and logged["dropped"] == {
        "two equal replies": 1, "no two replies of different scores": 2, "no reply within 64 tokens": 1,
    }  # fmt: skip
    with pytest.raises(MetierError, match="no record to train on"):
        prefer.train(toy, Records.from_rows(odd), Setup(steps=1, length=64, objective="dpo", work=Work(tmp_path / "x")))
    with pytest.raises(MetierError, match=r"preferences have 'replies' .*; records have: id, messages"):
        prefer.train(toy, maker.questions(4), Setup(steps=1, objective="dpo", work=Work(tmp_path / "y")))


def test_an_objective_of_one_reply_is_refused_before_anything_runs(toy):
    text = f"a: {{use: model, path: {toy.path}}}\nd: {{use: data.ingest.invented}}\nb: {{use: train.loop.LOOP"
    text += ", model: $a, data: $d, steps: 1, objective: NAMED}"
    for loop, objective, sentence in (
        ("prefer", "cross_entropy", "cross_entropy: learns from one reply a record; train.loop.prefer reads 2"),
        ("sft", "dpo", "dpo: compares 2 replies of a record; train.loop.sft reads 1"),
    ):
        with pytest.raises(MetierError, match=f"train.objective.{sentence}"):
            recipe.check(recipe.parse(text.replace("LOOP", loop).replace("NAMED", objective)))


def test_dev_is_watched_by_the_objective_itself(toy, tmp_path):
    """Cross entropy over both replies would take the worse one's fall for a loss, and give the start back."""
    dev = preferences(6, seed=4)
    watched = run(toy, tmp_path / "a", dev=dev)
    assert watched.dev_loss() == pytest.approx(math.log(2), abs=1e-6)
    many = run(toy, tmp_path / "b", dev=dev, micro_tokens=40)
    for r in (watched, many):
        for _ in r.plan:
            r.step()
    assert watched.dev_loss() < 0.9 * math.log(2)
    assert many.dev_loss() == pytest.approx(watched.dev_loss(), abs=1e-5)
    made = prefer.train(toy, preferences(), Setup(
        steps=6, batch=4, objective="dpo", optimizer=FAST, parameters="full", dev=dev, work=Work(tmp_path / "c")
    ))  # fmt: skip
    assert made.notes["dev"]["first"] == pytest.approx(math.log(2), abs=1e-6) and made.notes["dev"]["best_step"] > 0


def test_dev_of_a_plain_training_is_the_cross_entropy_it_was(toy, tmp_path):
    made = sft.train(toy, maker.questions(8), Setup(
        steps=2, dev=maker.questions(6, seed=2), optimizer=FAST, work=Work(tmp_path)
    ))  # fmt: skip
    assert made.notes["dev"]["first"] > 3 and made.notes["dev"]["best"] <= made.notes["dev"]["first"]
