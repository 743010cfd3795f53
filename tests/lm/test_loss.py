from __future__ import annotations

import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from metier.lm import loss
from metier.options import MetierError


def case(n=23, dim=8, vocab=50):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, dim, generator=g)
    head = torch.randn(vocab, dim, generator=g)
    return hidden, head, torch.randint(vocab, (n,), generator=g), torch.rand(n, generator=g)


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_value_and_gradients_are_those_of_plain_cross_entropy(monkeypatch, rows, weighted, trained):
    hidden, head, labels, weights = case()
    monkeypatch.setattr(loss, "BYTES_A_CHUNK", rows * 4 * len(head))
    results = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_(trained)
        if ours:
            value = loss.token_loss(h, w, labels, weights if weighted else None)
        else:
            each = cross_entropy(h @ w.t(), labels, reduction="none")
            value = (each * weights).sum() if weighted else each.sum()
        (value / 7).backward()
        results.append((value.detach(), h.grad, w.grad))
    for a, b in zip(*results, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    assert (results[0][2] is not None) == trained


def test_one_chunk_of_probabilities_is_alive_at_a_time(monkeypatch):
    hidden, head, labels, _ = case()
    monkeypatch.setattr(loss, "BYTES_A_CHUNK", 5 * 4 * len(head))
    softmax, made = loss._softmax, []

    def watched(*given):
        assert all(chunk() is None for chunk in made)
        losses, p = softmax(*given)
        made.append(weakref.ref(p))
        return losses, p

    monkeypatch.setattr(loss, "_softmax", watched)
    loss.token_loss(hidden.requires_grad_(), head, labels).backward()
    assert len(made) == 5


def test_weights_are_constants():
    hidden, head, labels, weights = case()
    weights.requires_grad_()
    loss.token_loss(hidden.requires_grad_(), head, labels, weights).backward()
    assert weights.grad is None


def test_large_logits_stay_finite_and_no_position_is_zero_with_a_graph():
    hidden, head, labels, _ = case()
    assert torch.isfinite(loss.token_loss((hidden * 1e4).requires_grad_(), head, labels))
    none = hidden[:0].requires_grad_()
    value = loss.token_loss(none, head, labels[:0])
    value.backward()
    assert value == 0 and none.grad is not None


def test_per_token_sums_to_token_loss():
    hidden, head, labels, weights = case()
    each = loss.per_token(hidden, head, labels)
    assert torch.allclose((each * weights).sum(), loss.token_loss(hidden.requires_grad_(), head, labels, weights))


@pytest.fixture
def network(toy):
    return AutoModelForCausalLM.from_pretrained(toy.path)


def ids_and_labels():
    ids = torch.randint(4, 200, (3, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :5] = -100
    labels[1] = -100
    labels[2, 9:] = -100
    return ids, labels


def test_supervised_positions_give_the_loss_of_transformers(network):
    ids, labels = ids_and_labels()
    picked = loss.supervised(network, ids, labels)
    theirs = network(input_ids=ids, labels=labels).loss
    assert picked.logits is None and len(picked.labels) == int((labels[:, 1:] != -100).sum())
    assert torch.allclose(picked.loss() / len(picked.labels), theirs, atol=1e-5)
    assert picked.rows.tolist() == sorted(picked.rows.tolist()) and 1 not in picked.rows


def test_an_adapter_on_the_head_takes_the_plain_road_with_the_same_value(network):
    ids, labels = ids_and_labels()
    short = loss.supervised(network, ids, labels)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"], ensure_weight_tying=False)
    adapted = get_peft_model(network, config).eval()
    plain = loss.supervised(adapted, ids, labels)
    assert plain.logits is not None and plain.head is None
    assert torch.allclose(plain.loss(), short.loss(), rtol=1e-5)
    assert torch.allclose(plain.per_token(), short.per_token(), atol=1e-5)


def test_an_adapter_below_the_head_keeps_the_short_cut(network):
    ids, labels = ids_and_labels()
    adapted = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    assert loss.supervised(adapted, ids, labels).head is not None
    loss.check_head(adapted, ids[:1])


def test_a_head_that_does_more_is_noticed(network):
    network.config.logit_scale = 0.5
    assert loss.plain_head(network) is None
    network.config.logit_scale = None
    forward = network.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    network.forward = scaled
    with pytest.raises(MetierError, match="LlamaForCausalLM: its logits are not"):
        loss.check_head(network, ids_and_labels()[0][:1])


def test_backward_ends_below_the_lowest_trained_block(network):
    ids, labels = ids_and_labels()
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"], layers_to_transform=[1])
    adapted = get_peft_model(network, config)
    reached = []
    for i, block in enumerate(adapted.get_base_model().model.layers):
        block.register_forward_hook(lambda m, a, out, i=i: reached.append((i, out.requires_grad)))
    loss.supervised(adapted, ids, labels).loss().backward()
    assert reached == [(0, False), (1, True)]


def test_weights_may_be_told_by_the_losses_and_are_constants(network, monkeypatch):
    monkeypatch.setattr(loss, "BYTES_A_CHUNK", 4 * network.config.vocab_size * 3)  # three rows a chunk
    ids, labels = ids_and_labels()
    each = loss.supervised(network, ids, labels).per_token()
    seen = []

    def weigh(losses, part):
        seen.append((part.start, losses))
        return torch.exp(-losses / 2)

    found = {}
    for name, weights in (("told", weigh), ("given", torch.exp(-each / 2))):
        network.zero_grad()
        value = loss.supervised(network, ids, labels).loss(weights)
        value.backward()
        found[name] = (float(value.detach()), network.lm_head.weight.grad.clone())
    assert found["told"][0] == pytest.approx(found["given"][0], rel=1e-6)
    assert torch.allclose(found["told"][1], found["given"][1], atol=1e-6)
    assert len(seen) > 1 and torch.allclose(torch.cat([losses for _, losses in seen]), each, atol=1e-6)


def test_a_sum_over_a_number_is_the_quotient_and_backward_twice_gives_it_twice(network):
    ids, labels = ids_and_labels()
    weight = network.lm_head.weight
    found = []
    for over, after in ((1.0, 7.0), (7.0, 1.0)):
        network.zero_grad()
        value = loss.supervised(network, ids, labels).loss(over=over) / after
        value.backward(retain_graph=True)
        once = weight.grad.clone()
        value.backward()
        assert torch.allclose(weight.grad, 2 * once, atol=1e-6)
        found.append((float(value.detach()), once))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
    with torch.no_grad():
        assert float(loss.supervised(network, ids, labels).loss(over=7.0)) == pytest.approx(found[0][0], rel=1e-6)
