"""DPO and its relatives: values and gradients against plain formulas, and against TRL where its environment is made."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid

import taught
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import load
from metier.store import Work
from metier.train.loop import prefer
from metier.train.objective import _pairs, dpo, hinge, ipo, simpo
from metier.train.run import Run
from metier.train.setup import Setup, method

PEER = Path(__file__).parents[3] / ".peers" / "trl" / "bin" / "python"


def preferences(count=6):
    rows = []
    for i, row in enumerate(maker.questions(count)):
        asked, said = row["messages"]
        rows.append({"id": f"p{i}", "prompt": [asked], "replies": ["valve " * (1 + i % 3), said["content"]],
                     "scores": [0.0, 1.0 + i]})  # fmt: skip
    return Records.from_rows(rows)


class Pair:
    """A network elsewhere than at its start, a batch, and its log-probabilities in transformers' own way."""

    def __init__(self, toy, data=None):
        start, self.tokenizer = taught.opened(toy)
        self.examples = taught.pairs(self.tokenizer, data or preferences(), 64, dpo_wants())
        self.batch = taught.batch_of(self.examples)
        self.memory = dpo.start(start, iter([self.batch]))
        self.network = taught.moved(start, 0.02)
        self.start = start

    def sums(self, network):
        """[records, 2] summed log-probabilities, and the numbers of tokens."""
        logits = network(input_ids=self.batch.input_ids, attention_mask=self.batch.attention_mask).logits[:, :-1]
        labels = self.batch.labels[:, 1:]
        here = labels != -100
        each = log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * here
        return each.sum(1).reshape(-1, 2), here.sum(1).reshape(-1, 2)

    def h(self):
        (now, _), (before, _) = self.sums(self.network), self.sums(self.start)
        gain = now - before.detach()
        return gain[:, 0] - gain[:, 1]


def dpo_wants():
    from metier.train import slots

    return slots.wanted(method("train.objective", "loss", "dpo"))


def test_at_the_start_it_is_the_logarithm_of_two(toy):
    pair = Pair(toy)
    assert float(dpo.loss(pair.start, pair.batch, pair.memory).detach()) == pytest.approx(math.log(2), abs=1e-6)
    assert float(hinge.loss(pair.start, pair.batch, pair.memory).detach()) == pytest.approx(1, abs=1e-5)
    assert float(ipo.loss(pair.start, pair.batch, pair.memory, beta=0.5).detach()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "dpo and sft", "margin", "ipo", "ipo sum", "hinge", "simpo"])
def test_values_and_gradients_are_the_formulas_of_whole_replies(name, toy):
    pair = Pair(toy)
    now, tokens = pair.sums(pair.network)
    before = pair.sums(pair.start)[0].detach()
    h, mean = pair.h(), now / tokens
    scores = torch.arange(6) + 1.0
    gain = (now - before) / tokens
    found, expected = {
        "dpo": (lambda *a: dpo.loss(*a, beta=0.3), -logsigmoid(0.3 * h)),
        "cdpo": (lambda *a: dpo.loss(*a, beta=0.3, smoothing=0.2),
                 -0.8 * logsigmoid(0.3 * h) - 0.2 * logsigmoid(-0.3 * h)),
        "dpo and sft": (lambda *a: dpo.loss(*a, sft=0.5), -logsigmoid(0.1 * h) - 0.5 * mean[:, 0]),
        "margin": (lambda *a: dpo.loss(*a, weigh="margin"), -logsigmoid(0.1 * h) * scores / scores.mean()),
        "ipo": (lambda *a: ipo.loss(*a, beta=0.2), (gain[:, 0] - gain[:, 1] - 2.5) ** 2),
        "ipo sum": (lambda *a: ipo.loss(*a, beta=0.2, over="sum"), (h - 2.5) ** 2),
        "hinge": (lambda *a: hinge.loss(*a, beta=0.2), (1 - 0.2 * h).clamp(min=0)),
        "simpo": (lambda network, batch, _: simpo.loss(network, batch, beta=2.0, gamma=0.5),
                  -logsigmoid(2 * (mean[:, 0] - mean[:, 1]) - 0.5)),
    }[name]  # fmt: skip
    slopes = taught.gradient(pair.network, expected.mean())
    value = found(pair.network, pair.batch, pair.memory)
    assert float(value.detach()) == pytest.approx(float(expected.mean().detach()), rel=1e-5, abs=1e-5)
    assert taught.same(taught.gradient(pair.network, value), slopes, 1e-5)


def test_a_record_counts_by_its_weight(toy):
    weighted = Records.from_rows({**row, "weight": float(i % 2)} for i, row in enumerate(preferences()))
    pair, plain = Pair(toy, weighted), Pair(toy)
    expected = (-logsigmoid(0.1 * plain.h()) * (torch.arange(6) % 2)).sum() / 6
    found = dpo.loss(pair.network, pair.batch, pair.memory)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_the_reference_belongs_to_its_record_in_any_order_and_epoch(toy, tmp_path):
    setup = Setup(epochs=2, batch=2, micro_tokens=60, length=64, objective="dpo", work=Work(tmp_path))
    run = Run(toy, preferences(), setup, taught.pairs, "test")
    pair = Pair(toy)
    expected = pair.sums(pair.start)[0]
    assert torch.allclose(run.memory["objective"]["reference"], expected, atol=1e-4)
    turned = taught.batch_of(pair.examples, torch.arange(6).flip(0).numpy())
    assert torch.allclose(_pairs.reference(pair.start, iter([turned])), expected, atol=1e-4)


def test_the_reference_is_read_without_dropout(toy):
    pair = Pair(toy)
    expected = pair.sums(pair.start)[0]
    for block in pair.start.model.layers:
        block.self_attn.attention_dropout = 0.5
    assert not torch.allclose(pair.sums(pair.start)[0], expected, atol=1e-4)
    assert torch.allclose(_pairs.reference(pair.start, iter([pair.batch])), expected, atol=1e-4)
    assert pair.start.training


def test_long_ago_agreed_pairs_teach_a_hinge_nothing(toy):
    pair = Pair(toy)
    with torch.no_grad():
        pair.memory["reference"] += torch.tensor([-100.0, 100.0])  # h is 200 more
    value = hinge.loss(pair.network, pair.batch, pair.memory)
    assert float(value.detach()) == 0
    assert all(not bool(slope.any()) for slope in taught.gradient(pair.network, value).values())


@pytest.mark.skipif(not PEER.exists(), reason="TRL lives in the environment that the benchmarks make")
def test_they_are_trl_s(toy, tmp_path):
    pair = Pair(toy)
    pair.network.save_pretrained(tmp_path / "now")
    order = [*range(0, 12, 2), *range(1, 12, 2)]  # TRL has the better replies first
    cases = [({"loss_type": ["sigmoid"], "beta": 0.1}, lambda *a: dpo.loss(*a)),
             ({"loss_type": ["sigmoid"], "beta": 0.5}, lambda *a: dpo.loss(*a, beta=0.5)),
             ({"loss_type": ["hinge"], "beta": 0.2}, lambda *a: hinge.loss(*a, beta=0.2)),
             ({"loss_type": ["ipo"], "beta": 0.2}, lambda *a: ipo.loss(*a, beta=0.2))]  # fmt: skip
    given = {"start": str(toy.path), "now": str(tmp_path / "now"), "cases": [case for case, _ in cases],
             "input_ids": pair.batch.input_ids[order].tolist(),
             "attention_mask": pair.batch.attention_mask[order].tolist(),
             "completion_mask": (pair.batch.labels[order] != -100).long().tolist()}  # fmt: skip
    done = subprocess.run(
        [str(PEER), str(Path(__file__).with_name("trl_pairs.py")), json.dumps(given)], capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for (case, ours), (loss, norm) in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        value = ours(pair.network, pair.batch, pair.memory)
        assert float(value.detach()) == pytest.approx(loss, abs=1e-5), case
        slopes = taught.gradient(pair.network, value).values()
        assert float(torch.nn.utils.get_total_norm(list(slopes))) == pytest.approx(norm, rel=1e-4), case


@pytest.mark.parametrize("objective", ["dpo", "ipo", "hinge", "simpo"])
def test_each_of_them_turns_a_preference_round(objective, toy, tmp_path):
    made = prefer.train(toy, preferences(), Setup(
        steps=30, batch=6, length=64, parameters="full", objective=objective,
        optimizer=method("train.optimizer", "optimizer", "adamw", lr=3e-3), work=Work(tmp_path),
    ))  # fmt: skip
    pair = Pair(toy)
    pair.network = load.network(made)[0]
    with torch.no_grad():
        (now, tokens), (before, _) = pair.sums(pair.network), pair.sums(pair.start)
    apart, was = ((x / tokens)[:, 0] - (x / tokens)[:, 1] for x in (now, before))
    assert (apart > was).all() and made.notes["method"] == "train.loop.prefer"
