from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

import taught
from metier import stats
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.steps import fresh
from metier.store import Work
from metier.train.loop import sft
from metier.train.objective import distill, first
from metier.train.setup import Setup, method


@pytest.fixture
def table(toy, tmp_path):
    def made(model=toy, count=6, **options):
        folder = tmp_path / f"table{len(list(tmp_path.iterdir()))}"
        return first.fit(maker.questions(count), model, work=Work(folder), **options)

    return made


def value(network, tokenizer, part, count=6, length=64, **options):
    batch = taught.batch_of(taught.talk(tokenizer, count, length))
    memory = first.start(network, iter([batch]), tokenizer, part, options.get("match", "linear"))
    return first.loss(network, batch, memory, table=part, **options)


def test_all_words_matched_linearly_are_the_exact_divergence(toy, table):
    network, tokenizer = taught.opened(toy)
    part = table(k=len(tokenizer), recalibrate="none")
    student = taught.moved(network)
    batch = taught.batch_of(taught.talk(tokenizer))
    exact = distill.loss(student, batch, distill.start(network, iter([]), tokenizer))
    for match in ("linear", "other"):
        found = value(student, tokenizer, part, match=match)
        assert float(found.detach()) == pytest.approx(float(exact.detach()), abs=1e-5)
        assert taught.same(taught.gradient(student, found), taught.gradient(student, exact), 1e-5)
        exact = distill.loss(student, batch, distill.start(network, iter([]), tokenizer))
    assert part.notes["coverage"] == pytest.approx(1, abs=1e-5)


def test_flattened_words_sum_to_one_and_keep_their_order():
    p = torch.tensor([[0.9, 0.05, 0.02, 0.01, 0.01], [0.3, 0.29, 0.2, 0.1, 0.05]])
    for how, c in (("temperature", 0.1), ("temperature", 0.7), ("smoothing", None), ("none", None)):
        flat = first.flattened(p, how, c, 0.1)
        assert torch.allclose(flat.sum(-1), torch.ones(2)) and (flat >= 0).all()
        assert (flat[:, :-1] >= flat[:, 1:] - 1e-7).all(), how
    assert torch.allclose(first.flattened(p, "temperature", 1e6, 0.1), torch.full((2, 5), 0.2), atol=1e-5)
    sharp = math.exp(10) / (math.exp(10) + 4)
    only = torch.tensor([[1.0, 0, 0, 0, 0]])
    assert float(first.flattened(only, "temperature", 0.1, 0)[0, 0]) == pytest.approx(sharp, abs=1e-6)
    smooth = first.flattened(torch.tensor([[0.9, 0.04, 0.03, 0.02, 0.01]]), "smoothing", None, 0.1)
    assert smooth[0].tolist() == pytest.approx([0.8, 0.065, 0.055, 0.045, 0.035], abs=1e-6)


@pytest.mark.parametrize(
    ("match", "options"),
    [("softmax", {"temperature": 0.4}), ("linear", {"recalibrate": "none"}), ("other", {"recalibrate": "none"})],
)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(match, options, toy, table):
    network, tokenizer = taught.opened(toy)
    part = table(**options)
    assert float(value(network, tokenizer, part, match=match).detach()) == pytest.approx(0, abs=1e-6)
    assert float(value(taught.moved(network), tokenizer, part, match=match).detach()) > 1e-4


def test_each_match_is_its_formula(toy, table):
    network, tokenizer = taught.opened(toy)
    student = taught.moved(network)
    batch = taught.batch_of(taught.talk(tokenizer))
    with torch.no_grad():
        p, q = (softmax(taught.all_logits(n, batch)[0], -1) for n in (network, student))
    top = p.topk(5)
    q = q.gather(1, top.indices)
    flat = softmax(top.values / 0.3, -1)
    mass = top.values.sum(1, keepdim=True)
    sides = {
        "linear": (flat, q / q.sum(1, keepdim=True)),
        "softmax": (flat, softmax(q / 0.3, -1)),
        "other": (torch.cat([flat * mass, 1 - mass], 1), torch.cat([q, 1 - q.sum(1, keepdim=True)], 1)),
    }
    part = table(temperature=0.3)
    assert part.notes["coverage"] == pytest.approx(float(mass.mean()), abs=1e-6)
    for match, (one, other) in sides.items():
        expected = float((one * (one / other).log()).sum(1).mean())
        assert float(value(student, tokenizer, part, match=match).detach()) == pytest.approx(expected, abs=1e-5)


def test_calibration_errors_that_are_known():
    draw = np.random.default_rng(0)
    confidence = draw.random(200_000)
    right = draw.random(200_000) < confidence
    assert stats.calibration_error(confidence, right) < 0.01
    assert stats.calibration_error(np.ones(1000), np.arange(1000) % 2) == 0.5


def test_the_search_finds_the_temperature_that_is_least_wrong():
    """A teacher that is always sure and right seven times in ten: e^(1/c) / (e^(1/c) + 4) = 0.7 at c = 0.448."""
    p = torch.tensor([[1.0, 0, 0, 0, 0]]).repeat(1000, 1)
    right = torch.arange(1000) % 10 < 7
    assert first.searched(p, right) == 0.44
    assert first.error(p, right) == pytest.approx(0.3, abs=1e-6)
    assert first.error(softmax(p / 0.44, -1), right) < 0.02


def test_the_table_says_how_it_was_made_and_what_it_takes(toy, table):
    dev = Records.from_rows({**row, "id": f"dev{row['id']}"} for row in maker.questions(20, seed=5))
    part = table(dev=dev)
    assert part.method == "train.objective.first.fit" and 0.02 <= part.notes["temperature"] <= 1.08
    assert part.notes["ece"]["after"] <= part.notes["ece"]["before"]
    size = sum(path.stat().st_size for path in part.path.iterdir())
    words = len(load.tokenizer_of(toy))
    assert size < part.notes["tokens"] * 60 + 1500 < part.notes["tokens"] * 4 * words
    everywhere = table(dev=dev, places="all")
    assert everywhere.notes["ece"] != part.notes["ece"] and everywhere.notes["tokens"] == part.notes["tokens"]


def test_it_stands_where_its_token_is_learnt_also_in_shorter_and_weighted_records(toy, table):
    network, tokenizer = taught.opened(toy)
    part = table(recalibrate="none", count=8)
    for length in (64, 24):
        assert float(value(network, tokenizer, part, count=8, length=length).detach()) == pytest.approx(0, abs=1e-6)


def test_bad_input_is_one_sentence(toy, table, tmp_path):
    part = table(temperature=0.3)
    other = fresh.run(layers=1, width=32, heads=2, vocabulary=300, data=maker.texts(4), work=Work(tmp_path / "other"))
    turned = Records.from_rows({**row, "id": f"q{5 - i}"} for i, row in enumerate(maker.questions(6)))

    def trained(model, data, part, **options):
        objective = method("train.objective", "loss", "first", table=part, **options)
        return sft.train(model, data, Setup(steps=1, parameters="full", objective=objective, work=Work(tmp_path / "t")))

    for call, sentence in (
        (lambda: table(), "needs 'dev', on which the temperature is searched"),
        (lambda: table(k=10**6, temperature=0.3), "'k' must be at most"),
        (lambda: trained(other, maker.questions(6), part), "the teacher of the table has another vocabulary"),
        (lambda: trained(toy, maker.questions(8), part), "the table has no record 'q[67]'"),
        (lambda: trained(toy, turned, part), "the table holds other tokens of record 'q"),
        (lambda: trained(toy, maker.questions(6), table(recalibrate="none"), match="softmax"), "'softmax' needs a "),
    ):
        with pytest.raises(MetierError, match=rf"^train\.objective\.first: {sentence}"):
            call()


def test_a_student_learns_from_the_table_alone(toy, table, tmp_path):
    other = maker.write(tmp_path / "other", seed=1)
    part = table(model=other, count=16, temperature=0.3)
    setup = Setup(
        steps=40, parameters="full", optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2),
        objective=method("train.objective", "loss", "first", table=part, match="other"), work=Work(tmp_path / "t"),
    )  # fmt: skip
    made = sft.train(toy, maker.questions(16), setup)
    assert made.notes["loss"]["last"] < 0.5 * made.notes["loss"]["first"]
