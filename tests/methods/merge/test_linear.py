from __future__ import annotations

import pytest
import torch

from metier import recipe
from metier.artefacts import Model
from metier.compose.merge import linear
from metier.compose.tensors import Here
from metier.options import Bound, MetierError
from metier.steps import merge
from metier.store import Work

HERE = Here("w")


def drawn(seed: int, dtype=torch.float32, size: float = 1.0) -> torch.Tensor:
    return torch.randn((40, 30), generator=torch.Generator().manual_seed(seed)).to(dtype) * size


BASE, EXPERTS = drawn(0), {name: drawn(i + 1) for i, name in enumerate(("a", "b", "c"))}


def test_the_numbers_are_the_formula_s():
    base, experts = torch.tensor([1.0, 2.0]), {"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([5.0, -2.0])}
    plain = linear.merge(base, experts, HERE)
    assert plain.tolist() == [4.0, 0.0]
    half = linear.merge(base, {"a": experts["a"]}, HERE, weights={"a": 0.5})
    assert half.tolist() == [2.0, 2.0]  # halfway: the base has what the weights lack to 1
    assert linear.merge(base, experts, HERE, weights={"a": 1, "b": 0.5}).tolist() == [5.0, 0.0]  # 1 + 2 + 2, 2 + 0 − 2
    shared = linear.merge(base, experts, HERE, weights={"a": 3, "b": 1}, normalise=True)
    assert shared.tolist() == [3.5, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_experts_equal_to_the_base_give_the_base_bit_for_bit(dtype):
    base = drawn(0, dtype, 1e-3)
    for weights in (None, {"a": 0.1, "b": 0.7, "c": 1.3}, {"a": -2.0, "b": 0.3, "c": 1e-3}):
        assert torch.equal(linear.merge(base, dict.fromkeys("abc", base), HERE, weights=weights), base)


def test_a_weight_of_one_gives_the_expert_bit_for_bit_and_none_the_base():
    far = {"a": drawn(1, size=1e-30), "b": drawn(2)}  # base + (expert − base) would give zeros
    assert torch.equal(linear.merge(BASE, far, HERE, weights={"a": 1, "b": 0}), far["a"])
    assert torch.equal(linear.merge(BASE, far, HERE, weights={"a": 0, "b": 0}), BASE)


def test_the_order_of_experts_and_weights_does_not_count():
    weights = {"a": 0.2, "b": 0.5, "c": 0.1}
    whole = linear.merge(BASE, EXPERTS, HERE, weights=weights)
    back = linear.merge(BASE, dict(reversed(EXPERTS.items())), HERE, weights=dict(reversed(weights.items())))
    assert torch.equal(whole, back)


def test_normalised_weights_sum_to_one():
    shares = linear.shares_of(["a", "b", "c"], {"a": 1, "b": 2, "c": 4}, True)
    assert shares == {"a": 1 / 7, "b": 2 / 7, "c": 4 / 7}
    wrong = {"a": 1.0, "b": -1.0, "c": 0.0}
    with pytest.raises(MetierError, match="of sum 0 cannot be normalised"):
        linear.merge(BASE, EXPERTS, HERE, weights=wrong, normalise=True)
    with pytest.raises(MetierError, match=r"must name the experts \['a', 'b', 'c'\], got \['a'\]"):
        linear.merge(BASE, EXPERTS, HERE, weights={"a": 1})


@pytest.mark.parametrize("weight", [0.3, 1.0, 1.7])
def test_an_adapter_with_a_weight_is_so_much_of_its_product_added(toy, tmp_path, weight):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from metier.lm import load

    network, tokenizer = load.network(toy)
    peft = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=["up_proj"]))
    with torch.no_grad():
        for i, (_, p) in enumerate(n for n in peft.named_parameters() if "lora_" in n[0]):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.05)
    peft.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    method = Bound("compose.merge.linear", linear.merge, {"weights": {"a": weight}})
    made = merge.run(toy, {"a": Model(tmp_path / "adapter", "x", toy)}, method=method, work=Work(tmp_path / "work"))
    before, after, pairs = (
        load_file(p) for p in (toy.path / "model.safetensors", made.path / "model.safetensors",
                               tmp_path / "adapter" / "adapter_model.safetensors")
    )  # fmt: skip
    for name, tensor in before.items():
        key = "base_model.model." + name.removesuffix(".weight")
        product = 0
        if f"{key}.lora_A.weight" in pairs:
            product = 3 * pairs[f"{key}.lora_B.weight"].double() @ pairs[f"{key}.lora_A.weight"].double()
            assert float(product.abs().max()) > 1e-3
        assert float((after[name] - (tensor.double() + weight * product)).abs().max()) < 1e-7
    assert sum(not torch.equal(before[n], after[n]) for n in before) == 2


def test_a_tuned_model_goes_part_of_the_way_back_to_its_start(toy, tmp_path):
    """WiSE-FT: (1 − w) θ₀ + w θ₁, of whole models."""
    from safetensors.torch import load_file

    from metier.laws import toy as maker
    from metier.train.loop import pretrain
    from metier.train.setup import Setup

    tuned = pretrain.train(toy, maker.texts(16), Setup(steps=2, parameters="full", work=Work(tmp_path / "train")))
    method = Bound("compose.merge.linear", linear.merge, {"weights": {"tuned": 0.3}})
    made = merge.run(toy, {"tuned": tuned}, method=method, work=Work(tmp_path / "merge"))
    start, end, found = (load_file(m.path / "model.safetensors") for m in (toy, tuned, made))
    for name, tensor in found.items():
        assert not torch.equal(start[name], end[name])
        assert torch.allclose(tensor, 0.7 * start[name] + 0.3 * end[name], atol=1e-7)


def test_a_recipe_gives_it_as_the_method_of_a_step():
    text = """
base: {use: model, path: smollm2}
merged: {use: merge, base: $base, experts: {a: $base}, method: {use: linear, weights: {a: 0.5}}}
"""
    call = recipe.check(recipe.parse(text))[1].arguments["method"]
    assert (call.method.name, call.deferred, call.arguments["weights"]) == ("compose.merge.linear", True, {"a": 0.5})
    with pytest.raises(MetierError, match="has no option 'weight'; did you mean 'weights'"):
        recipe.check(recipe.parse(text.replace("weights", "weight")))
