"""Copies that change nothing, in every architecture they are claimed for, and a block that is passed by."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from metier.lm import expand, load
from metier.options import MetierError

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
OLD = {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
       "eos_token_id": 2}  # fmt: skip
KINDS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "granite",
         "stablelm", "phi", "phi3", "starcoder2", "cohere2", "glm4", "exaone4", "gpt_neox"), SMALL),
    "mixtral": SMALL | {"num_local_experts": 2},
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": OLD,
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 4, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "falcon": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
               "bos_token_id": 1, "eos_token_id": 2},
}  # fmt: skip
IDS = torch.arange(3, 19)[None]


def network(kind, **values):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(KINDS[kind] | values))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases begin at 0
    return made


@torch.no_grad()
def logits(made):
    return made.eval()(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_grown_network_says_the_same_generates_with_its_cache_and_is_loaded_plainly(kind, tmp_path):
    made = network(kind)
    before = logits(made)
    assert expand.insert(made, [0, 2], "x") == [1, 4]
    assert float((logits(made) - before).abs().max()) <= 1e-5
    assert len(expand.blocks(made, "x")) == made.config.num_hidden_layers == 6
    with torch.no_grad():  # the copies say something now, and what lies above them must still find its own cache
        for number in (1, 4):
            for parameter in expand.blocks(made, "x")[number].parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    after = logits(made)
    assert not torch.allclose(after, before, atol=1e-3)
    asked = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached, uncached = (made.generate(IDS, use_cache=use, **asked) for use in (True, False))
    assert torch.equal(cached, uncached) and cached.shape[1] == IDS.shape[1] + 8
    with load.quiet():
        made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), after)


def test_lists_with_an_entry_for_each_block_grow_too():
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    made = network("qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    expand.insert(made, [1], "x")
    assert made.config.layer_types == [kinds[0], kinds[1], kinds[1], *kinds[2:]]
    assert [b.self_attn.layer_idx for b in expand.blocks(made, "x")] == [0, 1, 2, 3, 4]


def test_setting_the_copies_outputs_to_zero_brings_the_base_back(toy):
    made = load.network(toy)[0]
    before = logits(made)
    copies = expand.insert(made, [0, 1], "x")
    with torch.no_grad():
        for number in copies:
            block = expand.blocks(made, "x")[number]
            for parameter in block.parameters():
                parameter.add_(0.1)
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    assert torch.equal(logits(made), before)


def test_a_tied_embedding_is_not_doubled(toy):
    made = load.network(toy)[0]
    expand.insert(made, [0], "x")
    assert made.lm_head.weight is made.model.embed_tokens.weight


def test_a_block_is_passed_by_and_watched(toy):
    made = load.network(toy)[0]
    blocks = expand.blocks(made, "x")
    before = logits(made)
    seen = []
    with expand.bypassed(blocks[0]), expand.watched(blocks, seen.append):
        without = logits(made)
    assert len(seen) == 3 and torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert not torch.allclose(without, before, atol=1e-3) and torch.equal(logits(made), before)


@pytest.mark.parametrize("kind, values, words", [
    ("mamba", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}, "feed-forward output of a 'mamba' block"),
    ("gptj", OLD | {"rotary_dim": 4}, "called none of: down_proj, fc2, mlp.c_proj, dense_4h_to_h"),
    ("gpt2", OLD | {"scale_attn_by_inverse_layer_idx": True}, "depends on its number"),
    ("bloom", KINDS["bloom"] | {"apply_residual_connection_post_layernorm": True}, "changes what this Bloom"),
    ("opt", KINDS["opt"] | {"do_layer_norm_before": False}, "changes what this OPTForCausalLM says"),
])  # fmt: skip
def test_what_cannot_be_grown_is_refused(kind, values, words):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    with pytest.raises(MetierError, match=words):
        expand.insert(made, [0], "x")


@pytest.mark.parametrize("after, words", [
    ([2], "there is no block 2; the model has 2, counted from 0"), ([-1], "no block -1"), ([0, 0], "named twice"),
])  # fmt: skip
def test_blocks_that_are_not_there(toy, after, words):
    with pytest.raises(MetierError, match=words):
        expand.insert(load.network(toy)[0], after, "x")
