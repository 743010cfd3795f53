from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.train import batches, examples, units
from metier.train.loop import pretrain
from metier.train.parameters import das
from metier.train.setup import Setup, method
from metier.train.term import old_knowledge


@pytest.fixture
def part(toy, tmp_path):
    (tmp_path / "part").mkdir()
    return das.fit(toy, maker.texts(8), work=Work(tmp_path / "part"))


def given(toy, window=4):
    network, tokenizer = load.network(toy)
    found = examples.conversations(tokenizer, maker.questions(8), 64)
    return network.train(), batches.collate(
        found, np.arange(window), np.arange(8), seed=0, epoch=0, progress=0.0, device=torch.device("cpu")
    )


def test_the_contrast_is_the_formula_s():
    """Two rows: each agrees with itself by cos 1, with the other by 0, with its old part by cos 0.6 and 0."""
    z = torch.eye(2)
    old = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    found = float(old_knowledge.contrast(z, 5 * z, old, 0.5))
    row = [-math.log(math.exp(2) / sum(math.exp(c / 0.5) for c in cosines))
           for cosines in ([1, 0, 0.6, 0], [0, 1, 0.8, -1])]  # fmt: skip
    assert found == pytest.approx(sum(row), abs=1e-5)


def test_a_row_alone_is_told_from_its_old_part():
    one, old = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(old_knowledge.contrast(one, one, one, 0.05)) == pytest.approx(math.log(2))
    assert float(old_knowledge.contrast(one, one, old, 0.05)) == pytest.approx(math.log(1 + math.exp(-20)), abs=1e-6)


def test_it_is_a_mean_over_the_rows_of_the_step(toy, part):
    network, batch = given(toy)
    memory = old_knowledge.start(network, iter([]), part)
    torch.manual_seed(0)
    value = float(old_knowledge.term(network, batch, memory, importance=part).detach())
    torch.manual_seed(0)
    twice = float(old_knowledge.term(network, batch, memory, importance=part, strength=2.0).detach())
    batch.rows_in_step = 16
    torch.manual_seed(0)
    assert twice == pytest.approx(2 * value) and float(
        old_knowledge.term(network, batch, memory, importance=part).detach()
    ) == pytest.approx(value / 2)


def test_the_old_part_is_what_important_units_say(toy, part):
    """Where all units are important it is one more pass of the whole, which nothing tells from the others."""
    network, batch = given(toy)
    ones = {kind: torch.ones(size) for kind, size in units.sizes("test", network).items()}
    few = {kind: 0.01 + 0 * t for kind, t in ones.items()}
    few["out"] = (torch.arange(32) < 4).float().expand(2, -1)
    values = []
    for memory in (ones, few):
        torch.manual_seed(0)
        values.append(float(old_knowledge.term(network, batch, memory, importance=part, dropout=1e-6).detach()))
    assert values[0] > 0.4 * math.log(2) > values[1]  # half of the step's rows are in the batch


def test_a_training_with_it_learns_and_is_the_same_again(toy, tmp_path, part):
    def train(name):
        return pretrain.train(toy, maker.texts(24), Setup(
            steps=6, batch=8, length=24, micro_tokens=96, work=Work(tmp_path / name),
            parameters=method("train.parameters", "prepare", "das", importance=part),
            terms=[method("train.term", "term", "old_knowledge", importance=part)],
            optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2),
        ))  # fmt: skip

    one = train("a")
    assert one.digest == train("b").digest and one.notes["loss"]["last"] < one.notes["loss"]["first"]


def test_it_goes_with_an_adapter(toy, tmp_path, part):
    made = pretrain.train(toy, maker.texts(24), Setup(
        steps=2, batch=4, length=24, parameters="lora", work=Work(tmp_path / "lora"),
        terms=[method("train.term", "term", "old_knowledge", importance=part)],
    ))  # fmt: skip
    assert made.base == toy and made.notes["steps"] == 2


def test_an_importance_of_another_model_is_refused(toy, tmp_path):
    network, _ = given(toy)
    (tmp_path / "other").mkdir()
    other = units.write({"out": torch.zeros(3, 32)}, {}, Work(tmp_path / "other"))
    with pytest.raises(MetierError, match=r"old_knowledge: the importance is of another model: its 'out' is 3 × 32"):
        old_knowledge.start(network, iter([]), other)
