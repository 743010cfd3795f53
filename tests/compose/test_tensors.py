from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.artefacts import Model
from metier.compose import tensors, weights
from metier.compose.merge import linear
from metier.compose.weights import Weights
from metier.disk import files_digest
from metier.laws import toy as maker
from metier.lm import load
from metier.options import Bound, MetierError
from metier.steps import merge
from metier.store import Work


def dense(folder, start: Model, seed: int, moved: float = 0.02, dtype=torch.float32) -> Model:
    """The start with every weight moved a little."""
    network = AutoModelForCausalLM.from_pretrained(start.path, dtype=dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=draw).to(dtype) * moved)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(start.path).save_pretrained(folder)
    return Model(folder, files_digest(folder), source=f"dense{seed}")


def adapter(folder, start: Model, **settings) -> Model:
    network, tokenizer = load.network(start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
        peft = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **given | settings))
    peft.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(folder, files_digest(folder), start, source="adapter")


def state(model: Model) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(model.path.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tensors")


@pytest.fixture(scope="module")
def expert(toy, folder):
    return dense(folder / "expert", toy, 1)


@pytest.mark.parametrize("settings", [
    {}, {"use_rslora": True, "alpha_pattern": {"down_proj": 3}, "rank_pattern": {"q_proj": 2}},
    {"modules_to_save": ["norm"]},
], ids=["plain", "patterns", "whole modules"])  # fmt: skip
def test_an_adapter_read_tensor_by_tensor_is_what_peft_folds_in(toy, tmp_path, settings):
    model = adapter(tmp_path / "adapter", toy, **settings)
    folded = load.network(model, merged=True)[0].state_dict()
    read = Weights(model)
    assert set(read.names) == set(state(toy))  # the tied head is no tensor of its own
    assert all(torch.equal(read[name], folded[name]) for name in read.names)
    assert any(not torch.equal(read[name], state(toy)[name]) for name in read.names)


def test_adapters_on_embeddings_lie_on_their_rows(tmp_path):
    start = maker.write(tmp_path / "start", tied=False)
    model = adapter(tmp_path / "adapter", start, target_modules=["embed_tokens", "lm_head"])
    folded = load.network(model, merged=True)[0].state_dict()
    read = Weights(model)
    assert all(torch.equal(read[name], folded[name]) for name in read.names)


def test_gpt2_keeps_its_matrices_the_other_way_round(toy, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "start")
    AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path / "start")
    start = Model(tmp_path / "start", "gpt2")
    # attn.c_proj is square: only the kind of module tells rows from columns
    model = adapter(tmp_path / "adapter", start, target_modules=["attn.c_proj", "c_attn"], fan_in_fan_out=True)
    folded = load.network(model, merged=True)[0].state_dict()
    read = Weights(model)
    assert all(torch.equal(read[name], folded[name]) for name in read.names)


def test_other_adapters_are_refused(toy, tmp_path):
    for name, settings, said in (
        ("dora", {"use_dora": True}, "a LoRA with use_dora, not a plain LoRA"),
        ("bias", {"bias": "all"}, "a LoRA with bias"),
        ("tied", {"target_modules": ["embed_tokens"]}, "'model.embed_tokens.weight', which input and output share"),
        ("head", {"target_modules": ["lm_head"]}, "'lm_head.weight', which input and output share"),
    ):
        with pytest.raises(MetierError, match=said):
            Weights(adapter(tmp_path / name, toy, **settings))
    folder = tmp_path / "other"
    shutil.copytree(tmp_path / "dora", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(MetierError, match="of the kind IA3, not a plain LoRA; export it with 'merge: true' first"):
        Weights(Model(folder, "x", toy))


def test_the_merged_folder_is_a_plain_one_and_the_same_every_time(toy, expert, tmp_path):
    made = [merge.run(toy, {"e": expert}, work=Work(tmp_path / name)) for name in ("one", "two")]
    assert files_digest(made[0].path) == files_digest(made[1].path) == made[0].digest
    assert sorted(p.name for p in made[0].path.iterdir()) == sorted(p.name for p in toy.path.iterdir())
    assert str(tmp_path) not in "".join(p.read_text() for p in made[0].path.glob("*.json"))
    loaded, tokenizer = load.network(load.resolve(str(made[0].path), Work(tmp_path / "resolve")))
    assert len(tokenizer) == 320 and set(state(made[0])) == set(state(toy))
    assert torch.equal(loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight)
    assert [p.name for p in (tmp_path / "one").iterdir() if p.name != "log.jsonl"] == ["model"]


def test_shards_hold_every_tensor_once(toy, expert, tmp_path, monkeypatch):
    whole = merge.run(toy, {"e": expert}, work=Work(tmp_path / "whole"))
    monkeypatch.setattr(weights, "SHARD", 20_000)
    cut = merge.run(toy, {"e": expert}, work=Work(tmp_path / "cut"))
    files = sorted(cut.path.glob("model-*-of-*.safetensors"))
    assert len(files) == 6 and not (cut.path / "model.safetensors").exists()
    assert all(p.stat().st_size < 25_000 for p in files if len(load_file(p)) > 1)
    assert all(torch.equal(t, state(cut)[name]) for name, t in state(whole).items())
    back, _ = load.network(load.resolve(str(cut.path), Work(tmp_path / "resolve")))
    assert torch.equal(back.state_dict()["model.norm.weight"], state(whole)["model.norm.weight"])


def test_the_base_s_precision_stays_and_is_rounded_to_once(toy, tmp_path):
    base = dense(tmp_path / "base", toy, 5, 0.0, torch.bfloat16)
    model = adapter(tmp_path / "adapter", base)
    name = "model.layers.0.mlp.down_proj.weight"
    made = merge.run(base, {"a": model}, method=Bound("linear", linear.merge, {"weights": {"a": 0.5}}),
                     work=Work(tmp_path / "work"))  # fmt: skip
    found = state(made)[name]
    wanted = state(base)[name].double() + 0.5 * (Weights(model)[name].double() - state(base)[name].double())
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted.float().bfloat16())
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load.network(made)[0].dtype == torch.float32  # it loads


@pytest.mark.parametrize("change, said", [
    ({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}, "its rope_parameters is"),
    ({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}, "its head_dim is 16, the base's 8"),
    ({"intermediate_size": 96}, "its intermediate_size is 96, the base's 64"),
], ids=["rope", "heads", "width"])  # fmt: skip
def test_a_model_built_otherwise_is_refused(toy, expert, tmp_path, change, said):
    folder = tmp_path / "other"
    shutil.copytree(expert.path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(MetierError, match=f"merge: 'o' is built otherwise than the base: {said}"):
        merge.run(toy, {"e": expert, "o": Model(folder, "x")}, work=Work(tmp_path / "work"))


def test_a_model_of_another_origin_is_refused_and_nothing_is_left(toy, expert, tmp_path):
    stranger = maker.write(tmp_path / "stranger", seed=9)
    with pytest.raises(MetierError, match=r"'s' is no descendant of the base: its weights differ by 1\.\d\d of"):
        merge.run(toy, {"e": expert, "s": stranger}, work=Work(tmp_path / "work"))
    assert not (tmp_path / "work" / "model").exists() and not list((tmp_path / "work").glob("*.tmp"))
    with pytest.raises(MetierError, match="tie_word_embeddings is False, the base's True"):
        untied = maker.write(tmp_path / "untied", tied=False)
        merge.run(toy, {"u": untied}, work=Work(tmp_path / "work"))
    with pytest.raises(MetierError, match="'l' has the head 'labels', the base 'text'"):
        tensors.Family("merge", toy, {"l": dataclasses.replace(expert, head="labels", base=None)})
    with pytest.raises(MetierError, match="there is no expert"):
        merge.run(toy, {}, work=Work(tmp_path / "work"))


def test_a_shape_that_differs_is_named(toy, expert, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(expert.path, folder)
    held = state(expert)
    held["model.norm.weight"] = torch.ones(31)
    from safetensors.torch import save_file

    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetierError, match=r"the tensor 'model\.norm\.weight' is 31 in 'o' and 32 in the base"):
        merge.run(toy, {"o": Model(folder, "x")}, work=Work(tmp_path / "work"))


@pytest.fixture(scope="module")
def grown(expert, folder):
    """The expert with two tokens more."""
    network = AutoModelForCausalLM.from_pretrained(expert.path)
    tokenizer = AutoTokenizer.from_pretrained(expert.path)
    tokenizer.add_tokens(["<tool>", "</tool>"], special_tokens=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.resize_token_embeddings(len(tokenizer))
    network.save_pretrained(folder / "grown")
    tokenizer.save_pretrained(folder / "grown")
    return Model(folder / "grown", files_digest(folder / "grown"), source="grown")


def test_other_tokens_are_refused_or_taken_from_the_one_that_is_named(toy, expert, grown, tmp_path):
    with pytest.raises(MetierError, match="'the base' and 'g' have other tokens: '<tool>' is missing in the one and"):
        merge.run(toy, {"e": expert, "g": grown}, work=Work(tmp_path / "work"))
    made = merge.run(toy, {"e": expert, "g": grown}, tokenizer="g", work=Work(tmp_path / "work"))
    name = "model.embed_tokens.weight"
    rows, theirs, others = (state(m)[name] for m in (made, grown, expert))
    assert torch.equal(rows[320:], theirs[320:]) and len(rows) == 322
    assert torch.equal(rows[:320], ((theirs[:320].double() + others.double()) / 2).float())
    assert json.loads((made.path / "config.json").read_text())["vocab_size"] == 322
    assert load.tokenizer_of(made).convert_tokens_to_ids("</tool>") == 321
    assert load.open(made).reply([[{"role": "user", "content": "<tool>"}]])
    with pytest.raises(MetierError, match="'g' has the token '<tool>', which is missing in 'e'"):
        merge.run(toy, {"e": expert, "g": grown}, tokenizer="e", work=Work(tmp_path / "work"))
    with pytest.raises(MetierError, match="has no expert 'h'"):
        merge.run(toy, {"e": expert, "g": grown}, tokenizer="h", work=Work(tmp_path / "work"))


def test_a_licence_is_told_when_all_are_known(toy, expert, tmp_path):
    free = dataclasses.replace(toy, notes={"licence": "Apache-2.0"})
    other = dataclasses.replace(expert, notes={"licence": "MIT"})
    over = Model(toy.path, "x", free)  # an adapter has that of the model below it
    assert tensors.parents(free, {"e": other})["licence"] == "Apache-2.0 AND MIT"
    assert tensors.parents(free, {"e": over})["licence"] == "Apache-2.0"
    assert "licence" not in tensors.parents(free, {"e": expert})
    made = merge.run(free, {"e": other}, work=Work(tmp_path / "work"))
    assert made.notes["parents"]["experts"]["e"] == {"source": "dense1", "digest": expert.digest, "licence": "MIT"}
    assert 0 < made.notes["distances"]["e"] < 0.2


OWN = '''"""Keeps what lies above a threshold of the whole model; draws the rest.

Options:
    keep: how much.
"""
import torch
def survey(base, experts):
    return max(float((t - base).abs().max()) for t in experts.values())
def merge(base: torch.Tensor, experts: dict, here: object, *, keep: float = 0.5) -> torch.Tensor:
    top = max(here.survey.values())
    change = sum((t - base) * ((t - base).abs() > keep * top) for t in experts.values())
    return base + change + 1e-6 * torch.rand(base.shape, generator=here.generator("e"))
'''


def test_a_method_may_survey_the_whole_model_and_draw_by_tensor(toy, expert, tmp_path, own_methods):
    place = tmp_path / "methods" / "compose" / "merge"
    place.mkdir(parents=True)
    (place / "trimmed.py").write_text(OWN)
    own_methods(tmp_path / "methods")
    from metier.compose.merge import trimmed

    method = Bound("compose.merge.trimmed", trimmed.merge, {"keep": 0.999})
    made = [merge.run(toy, {"e": expert}, method=method, seed=seed, work=Work(tmp_path / f"w{i}"))
            for i, seed in enumerate((0, 0, 1))]  # fmt: skip
    assert made[0].digest == made[1].digest != made[2].digest
    far = {n: int(((state(made[0])[n] - t).abs() > 1e-5).sum()) for n, t in state(toy).items()}
    assert sum(far.values()) == 1  # of all tensors, the one weight that moved most
    one, two = (tensors.Here(name).generator("e").initial_seed() for name in ("a", "b"))
    assert one != two and one != tensors.Here("a").generator("f").initial_seed()


def test_a_merge_that_comes_out_wrong_is_refused(toy, expert, tmp_path):
    for method, said in ((lambda b, e, h: b[:1], "of another shape"), (lambda b, e, h: b / 0, "not finite")):
        with pytest.raises(MetierError, match=f"the merged '.*' is {said}"):
            merge.run(toy, {"e": expert}, method=method, work=Work(tmp_path / "work"))


MEASURE = """
import json, resource, sys
from pathlib import Path
from metier.artefacts import Model
from metier.steps import merge
from metier.store import Work
import metier.compose.merge.linear, torch
folder = Path(sys.argv[1])
models = [Model(folder / n, n) for n in ("base", "expert")]
ready = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge.run(models[0], {"e": models[1]}, work=Work(folder / "work"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ready) * 1024)
"""


def test_memory_holds_a_tensor_of_each_not_the_models(toy, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=320, hidden_size=512, intermediate_size=1024, num_hidden_layers=24,
                         num_attention_heads=4, tie_word_embeddings=True)  # fmt: skip
    network = LlamaForCausalLM(config)
    for name in ("base", "expert"):
        network.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path / name)
    size = sum(p.stat().st_size for p in (tmp_path / "base").glob("*.safetensors"))
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert size > 240e6
    assert int(run.stdout) < 60e6, run.stdout  # a tensor has 2 MB; the libraries' own first use is most of it
