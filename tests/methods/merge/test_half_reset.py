from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from metier.compose.merge import half_reset
from metier.compose.tensors import Here
from metier.laws import toy as maker
from metier.lm import blocks
from metier.options import Bound, MetierError
from metier.steps import merge
from metier.store import Work
from metier.train.loop import sft
from metier.train.setup import Setup, method


@pytest.fixture(scope="module")
def tuned(toy, tmp_path_factory):
    adamw = method("train.optimizer", "optimizer", "adamw", lr=1e-2)
    setup = Setup(steps=2, batch=8, parameters="full", optimizer=adamw, work=Work(tmp_path_factory.mktemp("tuned")))
    return sft.train(toy, maker.questions(16), setup)


def reset(toy, tuned, folder, seed=0, **values):
    bound = Bound(half_reset.NAME, half_reset.merge, values)
    made = merge.run(toy, {"tuned": tuned}, method=bound, seed=seed, work=Work(folder))
    return load_file(made.path / "model.safetensors")


def test_half_of_the_matrices_are_the_base_s_and_the_others_the_expert_s(toy, tuned, tmp_path):
    """Bit for bit, and by the draw of half fine-tuning."""
    made = reset(toy, tuned, tmp_path)
    base, expert = (load_file(m.path / "model.safetensors") for m in (toy, tuned))
    pieces = blocks.roles("test", {n: tuple(base[n].shape) for n in sorted(base)})
    back = {p.tensor for p in blocks.half(pieces, 0.5, "category", torch.Generator().manual_seed(0))}
    assert all(torch.equal(t, base[n] if n in back else expert[n]) for n, t in made.items())
    inside = {n for n in base if blocks.placed(n).block is not None}
    assert len(back) == len(inside) / 2 and not torch.equal(base["model.norm.weight"], expert["model.norm.weight"])


def test_the_seed_decides(toy, tuned, tmp_path):
    one, same, other = (reset(toy, tuned, tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1)))
    assert all(torch.equal(one[n], same[n]) for n in one) and any(not torch.equal(one[n], other[n]) for n in one)


def test_all_of_it_is_the_old_model(toy, tuned, tmp_path):
    """Card 54 (e)."""
    base, expert = (load_file(m.path / "model.safetensors") for m in (toy, tuned))
    whole = reset(toy, tuned, tmp_path / "a", share=1, embeddings=True)
    assert all(torch.equal(whole[n], base[n]) for n in base)
    inside = reset(toy, tuned, tmp_path / "b", share=1)
    assert all(torch.equal(inside[n], (expert if blocks.placed(n).block is None else base)[n]) for n in base)


def test_a_slice_of_a_fused_matrix_goes_back_alone():
    names = {"model.layers.0.self_attn.qkv_proj.weight": (16, 8), "model.layers.0.self_attn.o_proj.weight": (8, 8),
             "model.layers.0.mlp.gate_up_proj.weight": (12, 8)}  # fmt: skip
    for name, wanted in (("model.layers.0.self_attn.qkv_proj.weight", [8, 4, 4]),
                         ("model.layers.0.mlp.gate_up_proj.weight", [6, 6])):  # fmt: skip
        base, expert = torch.zeros(names[name]), torch.ones(names[name])
        seen = set()
        for seed in range(8):
            made = half_reset.merge(base, {"e": expert}, Here(name, seed, names))
            seen.add(tuple(float(part.mean()) for part in made.split(wanted)))
        assert len(seen) > 1 and all(share in (0.0, 1.0) for shares in seen for share in shares)


def test_unknown_tensors_and_alternating_heads_are_refused():
    here = Here("model.layers.0.mlp.router.weight", 0, {"model.layers.0.mlp.router.weight": (2, 2)})
    with pytest.raises(MetierError, match=r"compose\.merge\.half_reset: cannot tell what these tensors"):
        half_reset.merge(torch.zeros(2, 2), {"e": torch.ones(2, 2)}, here)
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    with pytest.raises(MetierError, match="cannot tell queries, keys and values apart"):
        half_reset.merge(torch.zeros(6, 2), {"e": torch.ones(6, 2)}, Here(name, 0, {name: (6, 2)}))
