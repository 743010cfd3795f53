from __future__ import annotations

import typing

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, PromptLearningConfig
from transformers import AutoModelForCausalLM

from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.train.loop import sft
from metier.train.parameters import adapter
from metier.train.parameters._kinds import KINDS
from metier.train.setup import Network, Setup, method

# Sizes that fit a network of width 32, where a kind's own default does not.
SMALL = {"oft": {"block": 8}, "fourierft": {"frequencies": 50}, "waveft": {"frequencies": 50}, "psoft": {"rank": 4},
         "miss": {"rank": 4}, "gralora": {"rank": 4}, "shira": {"rank": 4}}  # fmt: skip
WORDS = ("prompt", "p-tuning", "prefix")
IDS = torch.arange(40).reshape(2, 20)


def bound(kind, **values):
    return method("train.parameters", "prepare", "adapter", kind=kind, **(SMALL.get(kind, {}) | values))


def prepared(toy, kind, **values):
    torch.manual_seed(0)
    return bound(kind, **values)(Network(*load.network(toy), toy))


@torch.no_grad()
def logits(network):
    return network.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def test_the_names_are_those_of_the_table():
    assert set(typing.get_args(adapter.Name)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_is_saved_loads_with_the_same_logits_and_folds_in(toy, tmp_path, kind):
    made = prepared(toy, kind)
    before = logits(AutoModelForCausalLM.from_pretrained(toy.path))
    start = logits(made.network.module)
    if kind not in (*WORDS, "vblora"):
        assert torch.allclose(start, before, atol=2e-5)
    moving = {n for n, p in made.network.module.named_parameters() if p.requires_grad}
    assert len(moving) == sum(len(g["params"]) for g in made.groups) > 0
    frozen = {n: p.detach().clone() for n, p in made.network.module.named_parameters() if n not in moving}
    optimizer = torch.optim.AdamW(made.groups, lr=1e-2)
    made.network.module.train()
    for _ in range(2):
        optimizer.zero_grad()
        made.network.module(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss.backward()
        optimizer.step()
    after = logits(made.network.module)
    assert not torch.allclose(after, start, atol=1e-4)
    assert all(torch.equal(p, frozen[n]) for n, p in made.network.module.named_parameters() if n in frozen)
    model = made.finish(tmp_path / "a")
    assert model.base == toy and {p.suffix for p in model.path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    opened, _ = load.network(load.resolve(str(model.path), Work(tmp_path / "w")))
    assert torch.equal(logits(opened), after)
    plain = AutoPeftModelForCausalLM.from_pretrained(model.path)
    assert torch.equal(logits(plain), after)
    folded, _ = load.network(model, merged=True)
    assert isinstance(folded, PeftModel) == (kind in WORDS)
    assert torch.allclose(logits(folded), after, atol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "p-tuning"])
def test_it_goes_on_with_itself(toy, tmp_path, kind):
    made = prepared(toy, kind)
    model = made.finish(tmp_path / "a")
    again = bound(kind)(Network(*load.network(model), model))
    moving, fresh = ({n for n, p in m.network.module.named_parameters() if p.requires_grad} for m in (again, made))
    assert moving == fresh
    assert again.finish(tmp_path / "b").digest == model.digest


@pytest.mark.parametrize("kind", ["dora", "vera", "ia3", "boft", "prompt"])
def test_it_trains_in_the_loop(toy, tmp_path, kind):
    optimizer = method("train.optimizer", "optimizer", "adamw", lr=3e-2)
    made = sft.train(toy, maker.questions(16), Setup(steps=8, parameters=bound(kind), optimizer=optimizer,
                                                     work=Work(tmp_path)))  # fmt: skip
    assert made.notes["loss"]["last"] < made.notes["loss"]["first"]
    assert isinstance(load.network(made)[0].active_peft_config, PromptLearningConfig) == (kind == "prompt")


@pytest.mark.parametrize("kind, values, words", [
    ("vera", {"tokens": 3}, "'vera': has no option 'tokens'; it has: dropout, last, rank, targets"),
    ("prompt", {"rank": 3}, "'prompt': has no option 'rank'; it has: tokens"),
    ("ia3", {"last": 1}, "'ia3': has no option 'last'"),
    ("dora", {"targets": ["w_proj"]}, "no matrix is called 'w_proj'; there are: down_proj,"),
    ("dora", {"last": 3}, "'last' must be at most 2"),
    ("c3a", {"block": 7}, "does not fit this model: The block size should be a factor"),
])  # fmt: skip
def test_what_a_kind_does_not_take_is_refused(toy, kind, values, words):
    with pytest.raises(MetierError, match=words):
        prepared(toy, kind, **values)


def test_another_adapter_is_not_gone_on_with(toy, tmp_path):
    model = prepared(toy, "dora", rank=4).finish(tmp_path / "a")

    def carried(kind, **values):
        return adapter.prepare(Network(*load.network(model), model), kind=kind, **values)

    with pytest.raises(MetierError, match="carries a LORA adapter, which 'lora' cannot go on with"):
        carried("lora")
    with pytest.raises(MetierError, match="carries a LORA adapter, which 'ia3' cannot go on with"):
        carried("ia3")
    with pytest.raises(MetierError, match="carries an adapter with r 4, got 8"):
        carried("dora", rank=8)
    dropped = carried("dora", rank=4, dropout=0.5).network.module
    assert sum(isinstance(m, torch.nn.Dropout) and m.p == 0.5 for m in dropped.modules()) == 14


def test_only_some_blocks_and_matrices(toy):
    made = prepared(toy, "dora", rank=2, last=1, targets=["q_proj", "v_proj"])
    names = {n for n, p in made.network.module.named_parameters() if p.requires_grad}
    assert len(names) == 2 * 3 and all(".layers.1." in n for n in names)


def test_plain_lora_is_the_same_in_both_files(toy):
    torch.manual_seed(0)
    plain = method("train.parameters", "prepare", "lora")(Network(*load.network(toy), toy)).network.module
    named = prepared(toy, "lora").network.module
    held, same = plain.active_peft_config.to_dict(), named.active_peft_config.to_dict()
    assert {k for k in held if held[k] != same[k]} == {"target_modules"}
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), named.parameters(), strict=True))
