"""The roles of tensors, tried on transformers' architectures: what a tensor is said to do shows when it is zero."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from architectures import CONFIGS, GROUPED, NORMS, SMALL, network
from metier.lm import blocks
from metier.options import MetierError
from metier.train.parameters import das


def pieces(made):
    return blocks.roles("test", {n: p.shape for n, p in made.named_parameters()}, blocks.heads(made.config))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_of_a_model_has_one_role(kind):
    made = network(kind)
    found = pieces(made)
    assert sum(p.size for p in found) == sum(p.numel() for p in made.parameters())
    covered = {n: torch.zeros_like(p) for n, p in made.named_parameters()}
    for piece in found:
        piece.of(covered[piece.tensor]).add_(1)
    assert all(bool((t == 1).all()) for t in covered.values())
    gated = not {"gpt2", "opt", "phi", "gpt_neox", "bloom"} & {kind}
    for block in range(3):
        units = Counter(p.role for p in {p.unit: p for p in found if p.block == block}.values())
        assert units == Counter({"q": 1, "k": 1, "v": 1, "o": 1, "up": 1, "down": 1, "norm": NORMS.get(kind, 2)}
                                | ({"gate": 1} if gated else {})), units  # fmt: skip
    assert {p.role for p in found if p.block is None} <= {"embedding", "head", "final"}


def heard(made, path):
    """What reaches a module."""
    seen = []
    handle = made.get_submodule(path).register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    with torch.no_grad():
        made(input_ids=torch.arange(3, 15)[None])
    handle.remove()
    return seen[0].reshape(12, -1)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "olmo2"])  # whose norm lies over all heads
def test_the_rows_of_a_head_are_those_that_make_it(kind):
    """Without its rows of q, k and v a head gives nothing, and the others give what they gave."""
    made, heads = network(kind), blocks.heads(network(kind).config)
    path = next(n for n, _ in made.named_modules() if (p := blocks.placed(n)).role == "o" and p.block == 0)
    before = heard(made, path).view(12, heads.queries, heads.size)
    importance = torch.zeros(3, heads.queries)
    importance[0, 1] = 1
    named = {n: p for n, p in made.named_parameters() if blocks.placed(n).role != "o"}
    factors = das.factors(named, [p for p in pieces(made) if p.tensor in named], {"head": importance}, heads)
    with torch.no_grad():
        for factor in factors:
            factor.weight.mul_(factor.shaped())
    after = heard(made, path).view(12, heads.queries, heads.size)
    mates = heads.queries // heads.groups  # heads that share keys and values go silent together
    silent = [h for h in range(heads.queries) if h // mates == 1 // mates]
    assert not after[:, silent].any()
    others = [h for h in range(heads.queries) if h not in silent]
    assert torch.allclose(after[:, others], before[:, others], atol=1e-6) and bool(before[:, silent].abs().max() > 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_columns_of_a_head_are_those_that_read_it(kind):
    made, heads = network(kind), blocks.heads(network(kind).config)
    importance = torch.zeros(3, heads.queries)
    importance[1, 2] = 1
    factors = das.factors(dict(made.named_parameters()), pieces(made), {"head": importance}, heads)
    name, module = next((n, m) for n, m in made.named_modules() if (p := blocks.placed(n)).role == "o" and p.block == 1)
    given = torch.randn(2, heads.queries * heads.size)
    with torch.no_grad():
        for factor in factors:
            factor.weight.mul_(factor.shaped())
        said = module(given)
        given.view(2, heads.queries, heads.size)[:, 2] = 7.0
        assert torch.allclose(module(given), said, atol=1e-6), name
        given.view(2, heads.queries, heads.size)[:, 1] = 7.0
        assert not torch.allclose(module(given), said, atol=1e-3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_inner_neurons_and_outputs_go_silent_alone(kind):
    made, inner = network(kind), 128 if kind == "bloom" else 48
    path = next(n for n, _ in made.named_modules() if (p := blocks.placed(n)).role == "down" and p.block == 0)
    before = heard(made, path)
    importance = {"ffn": torch.zeros(3, inner), "out": torch.zeros(3, 32)}
    importance["ffn"][0, 5] = importance["out"][0, 9] = 1
    factors = das.factors(dict(made.named_parameters()), pieces(made), importance, blocks.heads(made.config))
    with torch.no_grad():
        for factor in factors:
            factor.weight.mul_(factor.shaped())
        after = heard(made, path)
        assert not after[:, 5].any() and bool(before[:, 5].abs().max() > 0)
        assert torch.allclose(after[:, :5], before[:, :5], atol=1e-6)
        assert torch.allclose(after[:, 6:], before[:, 6:], atol=1e-6)
        gives = made.get_submodule(path)(after)
        assert not gives[:, 9].any() and bool(gives[:, 8].abs().max() > 0)


def test_tensors_of_no_known_kind_are_named():
    shapes = {"model.layers.0.self_attn.q_proj.weight": (8, 8), "model.layers.0.mlp.router.weight": (4, 8),
              "model.layers.1.mlp.router.weight": (4, 8), "model.tower.weight": (2,)}  # fmt: skip
    with pytest.raises(MetierError, match=r"test: cannot tell .*: model\.layers\.\*\.mlp\.router\.weight, model\.t"):
        blocks.roles("test", shapes)


def test_a_fused_matrix_of_another_layout_is_refused():
    """Falcon's, with one key for all queries, and GPT-2's when it is not three times as wide as deep."""
    one = {"transformer.h.0.self_attention.query_key_value.weight": (40, 32)}
    with pytest.raises(MetierError, match=r"queries, keys and values apart in 'transformer\.h\.0\.self_attention"):
        blocks.roles("test", one, blocks.Heads(4, 4, 8))
    with pytest.raises(MetierError, match="apart"):
        blocks.roles("test", one)
    two = {"transformer.h.0.attn.c_attn.weight": (48, 32), "transformer.h.0.attn.c_proj.weight": (32, 32)}
    with pytest.raises(MetierError, match="apart"):
        blocks.roles("test", two)


def test_a_classifier_of_bert_has_roles_too():
    config = AutoConfig.for_model("bert", **SMALL)
    with torch.device("meta"):
        made = AutoModelForSequenceClassification.from_config(config)
    found = pieces(made)
    assert Counter(p.role for p in {p.unit: p for p in found if p.block == 1}.values()) == Counter(
        {"q": 1, "k": 1, "v": 1, "o": 1, "up": 1, "down": 1, "norm": 2}
    )
    assert {p.role for p in found if p.block is None} == {"embedding", "head", "final"}


def shapes(layers):
    config = AutoConfig.for_model("llama", **GROUPED | {"num_hidden_layers": layers})
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    return {n: tuple(p.shape) for n, p in made.named_parameters()}


def drawn(layers, share=0.5, level="category", seed=0):
    return blocks.half(blocks.roles("test", shapes(layers)), share, level, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layers", [4, 5])
def test_half_is_two_of_four_and_one_and_a_half_of_three(layers):
    """Card 54 (a); with an odd number of blocks the smaller half has two."""
    found = drawn(layers)
    by_block = [Counter(p.role for p in found if p.block == block) for block in range(layers)]
    assert [sum(c[r] for r in "qkvo") for c in by_block] == [2] * layers
    feed = [sum(c[r] for r in ("gate", "up", "down")) for c in by_block]
    assert sorted(feed) == [1] * (layers - layers // 2) + [2] * (layers // 2)
    assert [c["norm"] for c in by_block] == [1] * layers
    assert all(p.block is not None for p in found)


@pytest.mark.parametrize(("share", "attention", "feed"), [(0.25, 1, 0.75), (0.75, 3, 2.25), (0.4, 1.6, 1.2), (1, 4, 3)])
def test_other_shares_hold_over_the_blocks(share, attention, feed):
    found = Counter(p.role for p in drawn(20, share))
    assert sum(found[r] for r in "qkvo") == pytest.approx(20 * attention)
    assert sum(found[r] for r in ("gate", "up", "down")) == pytest.approx(20 * feed)


def test_the_levels_draw_blocks_or_numbers():
    whole = [p for p in blocks.roles("test", shapes(6)) if p.block is not None]
    layer = drawn(6, level="layer")
    assert sorted({p.block for p in layer}) and Counter(p.block for p in layer).keys() == {p.block for p in layer}
    assert len({p.block for p in layer}) == 3 and len(layer) == len(whole) / 2
    by_size = sum(p.size for p in drawn(6, level="model")) / sum(p.size for p in whole)
    assert 0.4 < by_size <= 0.5  # frozen until half of the numbers are


def test_the_draw_is_the_seed_s():
    assert drawn(6) == drawn(6) and drawn(6) != drawn(6, seed=1)


def test_a_bias_goes_with_its_matrix():
    made = network("qwen2")
    found = blocks.half(pieces(made), 0.5, "category", torch.Generator().manual_seed(0))
    names = {p.tensor for p in found}
    biased = [n for n, _ in made.named_parameters() if n.endswith("_proj.bias")]
    assert biased and all((n in names) == (n.removesuffix("bias") + "weight" in names) for n in biased)
