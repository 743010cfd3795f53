from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.artefacts import Model, Part
from metier.compose.delta import extract
from metier.disk import files_digest
from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work


def moved(folder, start: Model, seed: int, dtype=torch.float32, size: float = 0.05) -> Model:
    """The start with all matrices but the embedding moved."""
    network = AutoModelForCausalLM.from_pretrained(start.path, dtype=dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim == 2 and "embed" not in name:
                p.add_((torch.randn(p.shape, generator=draw) * size).to(dtype))
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(start.path).save_pretrained(folder)
    return Model(folder, files_digest(folder), source=f"moved{seed}")


def state(place) -> dict[str, torch.Tensor]:
    return load_file(next(place.glob("*.safetensors")))


@pytest.fixture(scope="module")
def expert(toy, tmp_path_factory):
    return moved(tmp_path_factory.mktemp("delta") / "expert", toy, 1)


@pytest.fixture(scope="module")
def part(toy, expert, tmp_path_factory):
    return extract.make(expert, toy, work=Work(tmp_path_factory.mktemp("part")))


def test_what_is_kept_is_the_difference_and_only_what_moved(toy, expert, part, tmp_path):
    held, before, after = state(part.path), state(toy.path), state(expert.path)
    assert set(held) == {n for n in before if not torch.equal(before[n], after[n])} and len(held) == 14
    assert all(torch.equal(t, (after[n].double() - before[n].double()).float()) for n, t in held.items())
    assert part.notes["lost"] == 0 and (part.notes["model"], part.notes["base"]) == (expert.digest, toy.digest)
    again = extract.make(expert, toy, work=Work(tmp_path / "again"))
    assert again.digest == part.digest and files_digest(again.path) == files_digest(part.path)
    part.save(part.path.parent)
    assert Part.load(part.path.parent).digest == part.digest


def test_put_back_on_its_base_the_expert_comes_out_and_at_0_the_base(toy, expert, part, tmp_path):
    made = extract.apply(toy, part, work=Work(tmp_path / "one"))
    for name, tensor in state(expert.path).items():
        unit = torch.finfo(torch.float32).eps * torch.maximum(tensor.abs(), state(toy.path)[name].abs())
        assert bool(((state(made.path)[name] - tensor).abs() <= unit).all())
    assert load.open(made).reply([[{"role": "user", "content": "a"}]]) == load.open(expert).reply(
        [[{"role": "user", "content": "a"}]]
    )
    none = extract.apply(toy, part, scale=0, work=Work(tmp_path / "none"))
    assert all(torch.equal(t, state(toy.path)[n]) for n, t in state(none.path).items())
    back = extract.apply(expert, part, scale=-1, work=Work(tmp_path / "back"))
    assert all(torch.allclose(t, state(toy.path)[n], atol=1e-6) for n, t in state(back.path).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_bit_for_bit(toy, tmp_path, dtype):
    base = moved(tmp_path / "base", toy, 0, dtype, 0.0)
    expert = moved(tmp_path / "expert", base, 2, dtype)
    part = extract.make(expert, base, work=Work(tmp_path / "part"))
    made = extract.apply(base, part, work=Work(tmp_path / "made"))
    found = state(made.path)
    assert all(torch.equal(t, found[n]) and found[n].dtype == dtype for n, t in state(expert.path).items())


def test_a_later_base_gets_the_very_same_change(toy, expert, part, tmp_path):
    later = moved(tmp_path / "later", toy, 7, size=0.01)
    made = extract.apply(later, part, scale=0.5, work=Work(tmp_path / "made"))
    for name, tensor in state(later.path).items():
        change = state(expert.path)[name].double() - state(toy.path)[name].double()
        assert float((state(made.path)[name] - (tensor.double() + 0.5 * change)).abs().max()) < 1e-7
    assert made.notes["parents"]["delta"] | {"licence": 0} == {
        "part": part.digest, "method": "compose.delta.extract", "scale": 0.5, "licence": 0
    }  # fmt: skip


def test_the_error_falls_with_the_rank_as_the_singular_values_say(toy, expert, part, tmp_path):
    whole = state(part.path)
    lost = []
    for rank in (1, 2, 4, 8):
        low = extract.make(expert, toy, rank=rank, work=Work(tmp_path / str(rank)))
        kept = state(low.path)
        name = "model.layers.1.mlp.up_proj.weight"  # [64, 32]
        assert kept[name + ".up"].shape == (64, rank) and kept[name + ".down"].shape == (rank, 32)
        error = float((kept[name + ".up"] @ kept[name + ".down"] - whole[name]).norm())
        tail = torch.linalg.svdvals(whole[name].double())[rank:]
        assert error == pytest.approx(float(tail.norm()), rel=1e-4)  # the best there is (Eckart and Young)
        lost.append(low.notes["lost"])
        made = extract.apply(toy, low, work=Work(tmp_path / f"made{rank}"))
        wanted = state(toy.path)[name] + kept[name + ".up"] @ kept[name + ".down"]
        assert torch.allclose(state(made.path)[name], wanted, atol=1e-6)
    assert lost == sorted(lost, reverse=True) and 0 < lost[-1] < lost[0] < 1


def test_an_adapter_is_kept_whole_in_as_many_directions_as_it_has(toy, tmp_path):
    from peft import LoraConfig, get_peft_model

    network, tokenizer = load.network(toy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"r": 3, "target_modules": ["up_proj", "q_proj"], "init_lora_weights": False}
        get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", **settings)).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    adapter = Model(tmp_path / "adapter", "x", toy)
    part = extract.make(adapter, toy, rank=3, work=Work(tmp_path / "part"))
    assert part.notes["lost"] < 1e-10 and len(state(part.path)) == 8
    made = extract.apply(toy, part, work=Work(tmp_path / "made"))
    folded = load.network(adapter, merged=True)[0].state_dict()
    assert all(torch.allclose(t, folded[n], atol=1e-6) for n, t in state(made.path).items())


def test_what_does_not_fit_is_refused_with_the_tensor_named(toy, expert, part, tmp_path):
    with pytest.raises(MetierError, match="the model does not differ from the base"):
        extract.make(toy, toy, work=Work(tmp_path / "none"))
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(toy.path, intermediate_size=48)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path / "narrow")
    narrow = Model(tmp_path / "narrow", "x")
    low = extract.make(expert, toy, rank=2, work=Work(tmp_path / "low"))
    for one in (part, low):
        with pytest.raises(MetierError, match=r"'model.layers.0.mlp.down_proj.weight' is 32 × 64 in the part and 32 ×"):
            extract.apply(narrow, one, work=Work(tmp_path / "made"))
    with pytest.raises(MetierError, match="its intermediate_size is 48, the base's 64"):
        extract.make(narrow, toy, work=Work(tmp_path / "made"))
    short = LlamaForCausalLM(LlamaConfig.from_pretrained(toy.path, num_hidden_layers=1))
    short.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path / "short")
    with pytest.raises(MetierError, match=r"'model.layers.1.\S+' is \d+ × \d+ in the part and missing in the model"):
        extract.apply(Model(tmp_path / "short", "x"), part, work=Work(tmp_path / "made"))
    assert not (tmp_path / "made" / "model").exists()


def test_licences_of_base_and_skill_travel(toy, expert, tmp_path):
    free = dataclasses.replace(toy, notes={"licence": "Apache-2.0"})
    part = extract.make(dataclasses.replace(expert, notes={"licence": "MIT"}), free, work=Work(tmp_path / "part"))
    assert part.notes["licence"] == "Apache-2.0 AND MIT"
    other = maker.write(tmp_path / "other", seed=4)
    assert "licence" not in extract.apply(other, part, work=Work(tmp_path / "made")).notes
