from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from metier.lm import load
from metier.options import MetierError
from metier.train.parameters import freeze, full, lora
from metier.train.setup import Network


@pytest.fixture
def network(toy):
    return Network(*load.network(toy), toy)


def trained(made):
    return {n for n, p in made.network.module.named_parameters() if p.requires_grad}


def test_lora_sits_on_every_matrix_but_the_head(network):
    made = lora.prepare(network, rank=2)
    places = {n.split(".lora_")[0].rpartition(".")[2] for n in trained(made)}
    assert places == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert sum(len(g["params"]) for g in made.groups) == 2 * 2 * 7
    assert made.network.module.active_peft_config.lora_alpha == 4


def test_lora_on_some_names_and_some_blocks(network):
    assert len(trained(lora.prepare(network, targets=["q_proj", "v_proj"], last=1))) == 4


def test_lora_on_the_last_blocks_has_all_their_matrices(network):
    names = trained(lora.prepare(network, last=1))
    assert len(names) == 14 and all(".layers.1." in n for n in names)


@pytest.mark.parametrize("values, words", [
    ({"targets": ["w_proj"]}, "no matrix is called 'w_proj'; there are: down_proj,"),
    ({"last": 3}, "'last' must be at most 2, the number of blocks, got 3"),
])  # fmt: skip
def test_lora_refuses_what_is_not_there(network, values, words):
    with pytest.raises(MetierError, match=words):
        lora.prepare(network, **values)


def test_lora_result_has_the_same_digest_wherever_it_lies(network, tmp_path):
    made = lora.prepare(network, rank=2)
    first, second = made.finish(tmp_path / "a"), made.finish(tmp_path / "b")
    assert first.digest == second.digest and first.base == network.source
    assert not list((tmp_path / "a").glob("*.bin")) and not list((tmp_path / "a").glob("*.pt"))


def test_freeze_chooses_by_name(network):
    made = freeze.prepare(network, train=["model.layers.1.*"], keep=["*.mlp.*"])
    names = {n for n, _ in network.module.named_parameters()}
    assert trained(made) == {n for n in names if ".layers.1." in n and ".mlp." not in n}
    matrices, vectors = made.groups
    assert all(p.dim() == 2 for p in matrices["params"]) and vectors["weight_decay"] == 0
    with pytest.raises(
        MetierError, match=r"no tensor is called 'layer\.\*'; names look like model.embed_tokens.weight"
    ):
        freeze.prepare(network, train=["layer.*"])
    with pytest.raises(MetierError, match="nothing is left to train"):
        freeze.prepare(network, train=["*"], keep=["*"])


def test_full_moves_all_or_all_but_the_embeddings(network):
    names = {n for n, _ in network.module.named_parameters()}
    assert trained(full.prepare(network)) == names
    assert names - trained(full.prepare(network, embeddings=False)) == {"model.embed_tokens.weight"}


def test_full_result_is_a_plain_folder_that_says_the_same(network, tmp_path):
    made = full.prepare(network)
    with torch.no_grad():
        made.groups[0]["params"][3].add_(0.1)
    ids = torch.arange(20)[None]
    expected = network.module(ids).logits
    model = made.finish(tmp_path / "m")
    assert model.base is None
    assert torch.equal(AutoModelForCausalLM.from_pretrained(model.path)(ids).logits, expected)
    assert {p.suffix for p in model.path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_full_folds_an_adapter_in(toy, network, tmp_path):
    adapted = lora.prepare(network, rank=2)
    with torch.no_grad():
        for p in adapted.groups[0]["params"]:
            p.add_(0.05)
    ids = torch.arange(20)[None]
    expected = adapted.network.module.eval()(ids).logits
    model = adapted.finish(tmp_path / "a")
    made = full.prepare(Network(*load.network(model), model), embeddings=False)
    assert torch.allclose(made.network.module(ids).logits, expected, atol=1e-5)
    assert not any("lora" in n for n in trained(made)) and made.finish(tmp_path / "b").base is None
