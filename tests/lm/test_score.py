"""Every value is compared with a plain forward pass of one text at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from metier.lm import load, pieces, score
from metier.options import MetierError

STEM = "river bridge valve meter open close north south seven eight stands rises falls before after"
PROMPTS = [STEM, STEM, "of", STEM, "", "the valve stands", STEM]
CONTINUATIONS = [" falls", " rises and falls", " the", " a b c d", "the river", " open close", " north"]


@pytest.fixture(scope="module")
def loaded(toy):
    return load.network(toy)


def naive(network, tokenizer, prompt: str, continuation: str) -> tuple[float, int]:
    whole = pieces.encode(tokenizer, prompt + continuation)
    own = len(whole) - len(pieces.encode(tokenizer, prompt))  # true where no token straddles the border
    ids = [tokenizer.convert_tokens_to_ids("<|endoftext|>"), *whole]
    with torch.no_grad():
        values = torch.log_softmax(network(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    return sum(float(values[i - 1, ids[i]]) for i in range(len(ids) - own, len(ids))), own


def test_values_are_those_of_one_text_at_a_time(loaded):
    heard = []
    found = score.log_probabilities(*loaded, PROMPTS, CONTINUATIONS, advance=heard.append)
    for one, prompt, continuation in zip(found, PROMPTS, CONTINUATIONS, strict=True):
        value, number = naive(*loaded, prompt, continuation)
        assert one.tokens == number
        assert one.sum == pytest.approx(value, abs=1e-4)
    assert sum(heard) == sum(f.tokens for f in found) == score.count(loaded[1], PROMPTS, CONTINUATIONS)


def test_the_stem_is_computed_once(loaded):
    tokenizer = loaded[1]
    pairs = score._split(tokenizer, PROMPTS, CONTINUATIONS)
    plain, [tree] = score._rows(PROMPTS, pairs, 512, None, True)
    stem = len(pieces.encode(tokenizer, STEM)) + 1
    assert len(plain) == 3
    assert tree.stem == stem
    assert len(tree.ids) == stem + sum(len(pairs[i][0]) - 1 - stem for i in (0, 1, 3, 6))


def test_choices_of_one_token_cost_no_more_than_their_stem(loaded):
    prompts, choices = [STEM] * 3, [" the", " falls", " of"]
    pairs = score._split(loaded[1], prompts, choices)
    assert [len(ids) - start for ids, start in pairs] == [1, 1, 1]
    [row], trees = score._rows(prompts, pairs, 512, None, True)
    assert row.ids == pairs[0][0][:-1] and trees == row.branches == []
    found = score.log_probabilities(*loaded, prompts, choices)
    assert [f.sum for f in found] == pytest.approx([naive(*loaded, STEM, c)[0] for c in choices], abs=1e-4)


def test_order_company_and_sharing_change_nothing(loaded, monkeypatch):
    network, tokenizer = loaded
    found = [f.sum for f in score.log_probabilities(network, tokenizer, PROMPTS, CONTINUATIONS)]
    back = score.log_probabilities(network, tokenizer, PROMPTS[::-1], CONTINUATIONS[::-1])
    assert [f.sum for f in back][::-1] == pytest.approx(found, abs=1e-4)
    monkeypatch.setattr(score, "BUDGET", 8)  # every row alone
    monkeypatch.setattr(score, "LARGEST", 1)  # no tree
    alone = score.log_probabilities(network, tokenizer, PROMPTS, CONTINUATIONS)
    assert [f.sum for f in alone] == pytest.approx(found, abs=1e-4)


def test_a_token_across_the_border_counts_to_the_continuation(loaded):
    network, tokenizer = loaded
    assert len(pieces.encode(tokenizer, " the")) == 1  # so no token ends between " t" and "he"
    [one] = score.log_probabilities(network, tokenizer, ["river t"], ["he falls"])
    value, number = naive(network, tokenizer, "river", " the falls")
    assert (one.sum, one.tokens) == (pytest.approx(value, abs=1e-4), number)


def test_windows_count_every_token_once_with_the_context_they_have(loaded):
    network, tokenizer = loaded
    text = " ".join([STEM] * 4)
    ids = [0, *pieces.encode(tokenizer, text)]
    window, stride = 16, 5
    value, done = 0.0, 1
    while done < len(ids):  # the definition, written down token by token
        end = min(len(ids), window if done == 1 else done + stride)
        part = ids[max(0, end - window) : end]
        with torch.no_grad():
            values = torch.log_softmax(network(input_ids=torch.tensor([part])).logits[0].float(), -1)
        value += sum(float(values[len(part) - 1 - (end - at), ids[at]]) for at in range(done, end))
        done = end
    [one] = score.log_probabilities(network, tokenizer, [""], [text], window=window, stride=stride)
    assert (one.sum, one.tokens) == (pytest.approx(value, abs=1e-4), len(ids) - 1)
    [whole] = score.log_probabilities(network, tokenizer, [""], [text])
    assert whole.tokens == one.tokens
    assert whole.sum != pytest.approx(one.sum, abs=1e-3)


def test_a_long_prompt_leaves_the_continuation_a_full_window(loaded):
    tokenizer = loaded[1]
    prompt = " ".join([STEM] * 4)
    pairs = score._split(tokenizer, [prompt], [" falls"])
    [row] = score._plain(0, *pairs[0], 16, None)
    assert row.ids == pairs[0][0][-16:-1]
    assert len(row.scored) == 1


def test_a_window_of_one_is_refused(loaded):
    with pytest.raises(MetierError, match="'window' must be at least 2 tokens, got 1"):
        score.log_probabilities(*loaded, ["a"], ["b"], window=1)


def test_nothing_asked_nothing_answered(loaded):
    assert score.log_probabilities(*loaded, [], []) == []


LLAMA = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48,
         "num_key_value_heads": 2, "initializer_range": 0.2}  # fmt: skip
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
BLOOM = {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}


@pytest.mark.parametrize(
    ("make", "honours"),
    [
        (lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA)), True),
        (lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=None)), True),
        (lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=64)), False),
        (lambda: GPT2LMHeadModel(GPT2Config(**GPT2)), True),
        (lambda: BloomForCausalLM(BloomConfig(**BLOOM)), False),
    ],
    ids=["qwen2", "mistral", "mistral with a sliding window", "gpt2", "bloom (positions by distance)"],
)
def test_sharing_is_for_networks_that_honour_positions_and_mask(make, honours):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make().eval()
    assert score._honours_trees(network) is honours


def test_a_network_that_ignores_the_mask_is_found_out(loaded):
    network = copy.deepcopy(loaded[0])
    forward = network.model.forward
    network.model.forward = lambda attention_mask=None, **given: forward(**given)
    network._metier_honours_trees = None
    assert not score._honours_trees(network)


def test_the_embedded_model(smollm2):
    network, tokenizer = load.network(smollm2)
    prompts = ["Question: What is the capital of France?\nAnswer:"] * 3 + ["", "Two and two"]
    continuations = [" Paris", " London, in England", " Rome", "The river rises.", " is four"]
    found = score.log_probabilities(network, tokenizer, prompts, continuations)
    for one, prompt, continuation in zip(found, prompts, continuations, strict=True):
        value, number = naive(network, tokenizer, prompt, continuation)
        assert (one.sum, one.tokens) == (pytest.approx(value, abs=1e-4), number)
    assert found[0].sum > found[2].sum
