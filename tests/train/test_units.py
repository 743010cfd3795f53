from __future__ import annotations

import math

import pytest
import torch

import architectures
from metier.lm import load
from metier.train import units


def test_gates_of_one_leave_the_logits_and_others_do_not(toy):
    """Card 37 (c)."""
    network, _ = load.network(toy)
    ids = torch.arange(3, 23)[None]
    plain = network(ids).logits
    for shape in ((), (1,)):
        gates = {k: torch.ones(*shape, *size) for k, size in units.sizes("test", network).items()}
        with units.gated("test", network, gates):
            assert torch.equal(network(ids).logits, plain)
        for kind in gates:
            gates[kind][..., 0, 3] = 0.5
            with units.gated("test", network, gates):
                assert not torch.allclose(network(ids).logits, plain, atol=1e-4)
            gates[kind][..., 0, 3] = 1.0
    assert torch.equal(network(ids).logits, plain)  # no hook is left


def test_a_closed_gate_of_a_head_is_a_head_without_its_columns(toy):
    network, _ = load.network(toy)
    ids = torch.arange(3, 23)[None]
    gates = {"head": torch.ones(2, 4)}
    gates["head"][1, 2] = 0
    with units.gated("test", network, gates):
        gated = network(ids).logits
    with torch.no_grad():
        network.model.layers[1].self_attn.o_proj.weight[:, 16:24] = 0
    assert torch.allclose(network(ids).logits, gated, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "bloom"])
def test_each_row_has_its_own_gates(kind):
    """The gradient of a row is that of the row alone."""
    network = architectures.network(kind)
    ids = torch.stack([torch.arange(3, 15), torch.arange(20, 32)])

    def gradients(rows):
        sizes = units.sizes("test", network)
        gates = {k: torch.ones(len(rows), *size, requires_grad=True) for k, size in sizes.items()}
        with units.gated("test", network, gates):
            value = network(rows, labels=rows).loss * rows[:, 1:].numel()
        return dict(zip(gates, torch.autograd.grad(value, list(gates.values())), strict=True))

    both, one, two = gradients(ids), gradients(ids[:1]), gradients(ids[1:])
    for kind in both:
        assert torch.allclose(both[kind], torch.cat([one[kind], two[kind]]), atol=1e-5), kind


def test_importance_is_normalised_within_a_block():
    found = units.normalised(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 0.0, 9.0]]))
    far = math.tanh(1 / math.sqrt(2 / 3))
    assert found[0].tolist() == pytest.approx([far, 0, far])
    assert found[1].tolist() == [0, 0, 0]  # where all are alike
    assert bool((found >= 0).all()) and bool((found <= 1).all())
    assert units.normalised(torch.tensor([[4.0]])).tolist() == [[0.0]]  # a single head


def test_accumulating_never_takes_back_and_twice_is_once():
    """Card 37 (d)."""
    draw = torch.Generator().manual_seed(0)
    one, two = ({"head": torch.rand(2, 4, generator=draw)} for _ in range(2))
    both = units.accumulated([one, two])
    assert bool((both["head"] >= one["head"]).all()) and bool((both["head"] >= two["head"]).all())
    assert torch.equal(units.accumulated([both, two])["head"], both["head"])
