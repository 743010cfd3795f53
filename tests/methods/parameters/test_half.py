from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from metier import options
from metier.laws import toy as maker
from metier.lm import blocks, load
from metier.options import MetierError
from metier.store import Work
from metier.train.loop import head, sft
from metier.train.optimizer import sgd
from metier.train.parameters import half
from metier.train.rounds import stages
from metier.train.setup import Network, Setup, method
from stepping import step, weights

DATA = maker.questions(24)


def bound(**values):
    return method("train.parameters", "prepare", "half", **values)


def setup(folder, **changes):
    adamw = method("train.optimizer", "optimizer", "adamw", lr=1e-2, weight_decay=0.1)
    given = {"steps": 3, "batch": 8, "optimizer": adamw, "parameters": bound()}
    return Setup(**(given | changes), work=Work(folder))


def tensors(model):
    return load_file(model.path / "model.safetensors")


def moved(before, after):
    return {n for n, t in before.items() if not torch.equal(t, after[n])}


def test_what_is_drawn_moves_and_the_rest_stays_bit_for_bit(toy, tmp_path):
    """Card 54 (a) and (b), under AdamW with weight decay."""
    made = sft.train(toy, DATA, setup(tmp_path))
    told = made.notes["half"]
    outside = {n for n in tensors(toy) if blocks.placed(n).block is None}
    assert moved(tensors(toy), tensors(made)) == set(told["moving"]) | outside
    roles = Counter(blocks.placed(n).role for n in told["moving"])
    assert sum(roles[r] for r in "qkvo") == 2 * 2 and sum(roles[r] for r in ("gate", "up", "down")) == 3
    assert roles["norm"] == 2 and told["matrices"] == 0.5
    whole = sum(t.numel() for n, t in tensors(toy).items() if n not in outside)
    assert told["numbers"] == sum(tensors(toy)[n].numel() for n in told["moving"]) / whole


def test_the_seed_decides_and_each_stage_draws_again_with_a_fresh_optimizer(toy, tmp_path):
    """Card 54 (c). Moments of the stage before would move what is frozen now."""
    same, other = (sft.train(toy, DATA, setup(tmp_path / str(s), seed=s)).notes["half"]["moving"] for s in (0, 1))
    made = stages.train(toy, [DATA, maker.questions(24, 1)], setup(tmp_path / "stages"))
    first, second = (stage["half"]["moving"] for stage in made.notes["stages"])
    assert first == same and first != other and first != second
    between = load_file(tmp_path / "stages" / "checkpoints" / "stage-1" / "model" / "model.safetensors")
    inside = {n for n in moved(between, tensors(made)) if blocks.placed(n).block is not None}
    assert inside == set(second) and set(first) - set(second)


def test_a_share_of_one_is_full_fine_tuning(toy, tmp_path):
    """Card 54 (d)."""
    whole = sft.train(toy, DATA, setup(tmp_path / "half", parameters=bound(share=1)))
    assert whole.digest == sft.train(toy, DATA, setup(tmp_path / "full", parameters="full")).digest


@pytest.mark.parametrize("level", ["layer", "model"])
def test_blocks_or_numbers_are_drawn(toy, tmp_path, level):
    made = sft.train(toy, DATA, setup(tmp_path, parameters=bound(level=level, embeddings=False)))
    changed = moved(tensors(toy), tensors(made))
    assert changed == {*made.notes["half"]["moving"], "model.norm.weight"}
    if level == "layer":
        assert len({blocks.placed(n).block for n in changed} - {None}) == 1


def test_a_classifier_trains_its_head(toy, tmp_path):
    from metier.artefacts import Records

    rows = Records.from_rows({"id": r["id"], "text": r["text"], "label": "ab"[i % 2]} for i, r in
                             enumerate(maker.texts(16)))  # fmt: skip
    made = head.train(toy, rows, setup(tmp_path, parameters=bound(embeddings=False)))
    trained = tensors(made)
    assert bool(trained["score.weight"].any())
    assert torch.equal(trained["model.embed_tokens.weight"], tensors(toy)["model.embed_tokens.weight"])


@pytest.mark.parametrize("kind", ["gpt_neox", "phi3", "gpt2"])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_frozen_rows_of_a_fused_matrix_stay_bit_for_bit(toy, kind, optimizer):
    """Where q, k and v share a matrix, the rows of those that were not drawn are masked."""
    torch.manual_seed(3)
    config = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "pad_token_id": 0}
    config |= {"gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4}}.get(kind, {"intermediate_size": 48})
    config |= {"num_key_value_heads": 2} if kind == "phi3" else {}
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    made = half.prepare(Network(module, None, toy))
    rate = {"lr": 0.01, "weight_decay": 0.1}
    moves = torch.optim.AdamW(made.groups, **rate) if optimizer == "adamw" else sgd.optimizer(
        made.groups, momentum=0.9, **rate
    )  # fmt: skip
    before = weights(made)
    for number in range(3):
        step(made, moves, number)
    after = weights(made)
    pieces = blocks.roles("test", {n: t.shape for n, t in before.items()}, blocks.heads(module.config))
    fused = [p for p in pieces if p.part]
    kept = [p for p in fused if torch.equal(p.of(before[p.tensor]), p.of(after[p.tensor]))]
    changed = [p for p in fused if bool((p.of(before[p.tensor]) != p.of(after[p.tensor])).float().mean() > 0.9)]
    assert kept and changed and len(kept) + len(changed) == len(fused)
    attention = Counter(p.block for p in pieces if p.role in "qkvo" and p.tensor.endswith("weight") and (
        not torch.equal(p.of(before[p.tensor]), p.of(after[p.tensor]))
    ))  # fmt: skip
    assert attention == Counter(dict.fromkeys(range(4), 2))


def test_an_architecture_of_unknown_parts_is_refused_by_name(toy):
    config = AutoConfig.for_model("mixtral", vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                  num_attention_heads=4, num_local_experts=2)  # fmt: skip
    module = AutoModelForCausalLM.from_config(config)
    with pytest.raises(MetierError, match=r"train\.parameters\.half: cannot tell what these .*layers\.\*\.mlp"):
        half.prepare(Network(module, None, toy))


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(share):
    option = next(p for p in options.parameters(half.prepare) if p.name == "share")
    with pytest.raises(MetierError, match=r"half: 'share' must be (greater than 0|at most 1)"):
        options.checked(half.NAME, option, share)


def test_a_tiny_share_leaves_the_last_norm(toy):
    network = Network(*load.network(toy), toy)
    made = half.prepare(network, share=1e-6, embeddings=False)
    assert sum(p.numel() for g in made.groups for p in g["params"]) == 32
