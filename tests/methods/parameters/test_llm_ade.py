from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import expand, load
from metier.options import MetierError
from metier.store import Work
from metier.train.loop import pretrain
from metier.train.parameters import _importance, llm_ade
from metier.train.setup import Network, Setup, method

DATA = maker.texts(6)


@pytest.fixture
def network(toy):
    return Network(*load.network(toy), toy)


def moving(made):
    return sorted({int(n.split(".")[2]) for n, p in made.network.module.named_parameters() if p.requires_grad})


def test_the_angle_is_exact_at_its_ends_and_between():
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    b = torch.tensor([[5.0, 0.0], [-1.0, 0.0], [1.0, -1.0], [3.0, 4.0]])
    assert _importance.turn(a, b).tolist() == pytest.approx([0, 1, 0.5, 0], abs=1e-12)
    assert float(_importance.turn(a, b)[3]) == 0
    near = torch.tensor([[1.0, 1e-6]])
    assert float(_importance.turn(near, torch.tensor([[1.0, 0.0]]))[0]) == pytest.approx(1e-6 / math.pi, rel=1e-6)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_profile_is_that_of_hidden_states_of_each_text_alone(network, pool):
    found = _importance.profile(network.module, _importance.probes("x", network, DATA, 10_000), 1, pool, "x")
    assert ((found >= 0) & (found <= 1)).all()
    each = []
    for row in DATA:
        ids = torch.tensor([network.tokenizer(row["text"])["input_ids"] + [0]])
        with torch.no_grad():
            states = network.module(ids, output_hidden_states=True).hidden_states
        a, b = (s[0].double() for s in states[:2])
        cosine = (torch.nn.functional.cosine_similarity(a, b, dim=-1)).clamp(-1, 1)
        angles = cosine.arccos() / math.pi
        each.append(float(angles[-1] if pool == "last" else angles.mean()))
    assert float(found[0]) == pytest.approx(sum(each) / len(each), abs=1e-6)


def test_a_silent_block_turns_nothing(network):
    block = expand.blocks(network.module, "x")[1]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    found = _importance.profile(network.module, _importance.probes("x", network, DATA, 10_000), 1, "last", "x")
    assert float(found[1]) == 0 and float(found[0]) > 0
    made = llm_ade.prepare(network, DATA, top=0.5, protect=0)
    assert moving(made) == [0]


def test_a_block_has_the_mean_of_its_runs():
    assert llm_ade.of_blocks(torch.tensor([0.2, 0.4, 0.9]), 1).tolist() == pytest.approx([0.2, 0.4, 0.9])
    assert llm_ade.of_blocks(torch.tensor([0.2, 0.4, 0.9]), 2).tolist() == pytest.approx([0.2, 0.3, 0.65, 0.9])
    assert llm_ade.of_blocks(torch.tensor([0.5]), 2).tolist() == [0.5, 0.5]


def test_the_highest_scores_are_copied_then_trained_and_ends_are_protected():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.4, 0.3, 0.2, 0.15, 0.95])
    assert llm_ade.planned(scores, 0.25, 0.0, 1) == {"train": [2, 3], "expand": []}
    assert llm_ade.planned(scores, 0.25, 0.125, 1) == {"train": [3], "expand": [2]}
    assert llm_ade.planned(scores, 0.25, 0.25, 1) == {"train": [], "expand": [2, 3]}
    assert llm_ade.planned(scores, 0.25, 0.0, 0) == {"train": [7, 0], "expand": []}


def test_a_plan_overrides_the_scores_and_counts_in_the_old_numbers(network):
    with torch.no_grad():
        before = network.module.eval()(torch.arange(9)[None]).logits
    made = llm_ade.prepare(network, DATA, plan={"train": [1], "expand": [0]})
    assert moving(made) == [1, 2]
    with torch.no_grad():
        assert torch.equal(network.module(torch.arange(9)[None]).logits, before)


@pytest.mark.parametrize("values", [{"top": 0.5}, {"top": 1.0, "expand": 0.5}])
def test_what_is_frozen_stays_and_the_result_is_plain(toy, tmp_path, values):
    bound = method("train.parameters", "prepare", "llm_ade", protect=0, **values)
    optimizer = method("train.optimizer", "optimizer", "adamw", lr=1e-2, weight_decay=0.1)
    made = pretrain.train(toy, maker.texts(40), Setup(
        steps=10, batch=4, parameters=bound, optimizer=optimizer, work=Work(tmp_path)
    ))  # fmt: skip
    plan, profile = made.notes["plan"], made.notes["profile"]
    assert len(profile) == 2 and len(plan["train"]) == 1 and len(plan["expand"]) == (1 if "expand" in values else 0)
    before = dict(AutoModelForCausalLM.from_pretrained(toy.path).named_parameters())
    after = AutoModelForCausalLM.from_pretrained(made.path)
    origin = [n for n in range(2) for _ in range(2 if n in plan["expand"] else 1)]
    assert after.config.num_hidden_layers == len(origin)
    moved = set()
    for name, tensor in after.named_parameters():
        parts = name.split(".")
        number = int(parts[2]) if ".layers." in name else None
        old = name if number is None else ".".join([*parts[:2], str(origin[number]), *parts[3:]])
        if not torch.equal(tensor, before[old]):
            moved.add(number)
    copies = {n for n in range(1, len(origin)) if origin[n] == origin[n - 1]}
    assert moved == copies | {origin.index(n) for n in plan["train"]}


@pytest.mark.parametrize("values, words", [
    ({}, "no block is left to learn; raise 'top' or lower 'protect'"),
    ({"top": 0.0, "protect": 0}, "no block is left to learn"),
    ({"span": 3}, "'span' must be at most 2, the number of blocks, got 3"),
    ({"plan": {"train": [2]}}, "there is no block 2; the model has 2, counted from 0"),
    ({"plan": {"train": [1], "expand": [1]}}, "block 1 is named twice"),
    ({"plan": {}}, "no block is left to learn"),
])  # fmt: skip
def test_bad_input(network, values, words):
    with pytest.raises(MetierError, match=f"^train.parameters.llm_ade: .*{words}"):
        llm_ade.prepare(network, DATA, **values)
    with pytest.raises(MetierError, match="there is no record to measure importance on"):
        llm_ade.prepare(network, Records.from_rows([]), protect=0)
