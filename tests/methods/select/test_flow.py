from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier import recipe
from metier.artefacts import Records
from metier.data.select import flow
from metier.laws import toy as maker
from metier.lm import tokens
from metier.options import MetierError
from metier.steps import weight
from metier.store import Work

ROWS = [row | {"prompt": None, "completion": None, "text": None} for row in maker.questions(6)] + [
    {"id": "p", "prompt": "river", "completion": " falls after"}, {"id": "t", "text": "valve meter open"}]  # fmt: skip


def test_the_weights_are_the_formula_s():
    assert flow.easiness(np.array([1.0, 2.0, 4.0]), 2.0).tolist() == pytest.approx([math.exp(-x) for x in (0.5, 1, 2)])
    even = flow.easiness(np.array([1.0, 2.0, 4.0, 9.0]), "median")
    assert even.tolist() == pytest.approx([math.exp(-x / 3) for x in (1, 2, 4, 9)])
    assert flow.easiness(np.array([0.0, 0.0]), "median").tolist() == [1.0, 1.0]
    assert len(flow.easiness(np.array([]), "median")) == 0


def test_losses_are_those_of_plain_transformers(toy, tmp_path):
    network, tokenizer = AutoModelForCausalLM.from_pretrained(toy.path), AutoTokenizer.from_pretrained(toy.path)
    wanted = []
    for row in ROWS:
        ids, labels = (torch.tensor(side)[None] for side in tokens.supervised(tokenizer, row))
        with torch.no_grad():
            wanted.append(float(network(input_ids=ids, labels=labels).loss))
    found = list(flow.score(Records.from_rows(ROWS), toy, work=Work(tmp_path)))
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert [row["loss"] for row in found] == pytest.approx(wanted, abs=1e-5)
    tau = float(np.median(wanted))
    assert [row["score"] for row in found] == pytest.approx([math.exp(-x / tau) for x in wanted], rel=1e-5)


def test_what_would_not_be_trained_on_has_a_reason_and_does_not_move_the_others(toy, tmp_path):
    few = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "falls"}]
    rows = [{"id": "a", "messages": few}, {"id": "b", "messages": [few[0] | {"content": "river " * 40}, few[1]]},
            {"id": "c", "messages": few[:1]}]  # fmt: skip
    found = list(flow.score(Records.from_rows(rows), toy, length=30, work=Work(tmp_path)))
    assert [row["reason"] for row in found] == [None, "no reply within 30 tokens", "nothing to learn from"]
    assert found[0]["score"] == pytest.approx(math.exp(-1)) and found[1]["score"] is found[2]["score"] is None


def test_scores_become_weights_that_a_training_honours(toy, tmp_path):
    data = maker.questions(8)
    scores = flow.score(data, toy, work=Work(tmp_path / "f"))
    weighed = weight.run(data, scores, work=Work(tmp_path / "w"))
    given = [row["score"] for row in scores]
    assert weighed.column("weight") == pytest.approx([s * 8 / sum(given) for s in given])


@pytest.mark.parametrize("option", ["tau: -1", "tau: .nan", "tau: mean", "length: 1"])
def test_bad_options_are_refused(toy, option):
    text = f"""
a: {{use: model, path: {toy.path}}}
d: {{use: data.ingest.invented, kind: questions}}
s: {{use: data.select.flow, data: $d, model: $a, {option}}}
"""
    with pytest.raises(MetierError, match=f"data.select.flow: '{option[:3]}"):
        recipe.check(recipe.parse(text))
