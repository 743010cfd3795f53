from __future__ import annotations

import numpy as np
import pytest
import torch

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import heads, load
from metier.store import Work
from metier.train import batches, examples
from metier.train.loop import head, sft
from metier.train.objective import adversarial, cross_entropy
from metier.train.setup import Setup, method

CPU = torch.device("cpu")
OFF = {"eps": 0.0, "noise": 0.0, "strength": 0.0}


def words(toy):
    network, tokenizer = load.network(toy)
    return network.train(), examples.conversations(tokenizer, maker.questions(8), 64)


def classes(toy):
    rows = [{"id": r["id"], "text": r["text"], "label": "ab"[i % 2]} for i, r in enumerate(maker.texts(8))]
    network, tokenizer = heads.attach(*load.network(toy), ["a", "b"])
    torch.nn.init.normal_(network.score.weight, generator=torch.Generator().manual_seed(0))
    return network.train(), examples.labelled(tokenizer, Records.from_rows(rows), 64, labels=["a", "b"])


def batch(found, rows=range(8)):
    return batches.collate(found, np.array(rows), np.arange(8), seed=0, epoch=0, progress=0.0, device=CPU)


@pytest.fixture(params=[words, classes])
def given(request, toy):
    network, found = request.param(toy)
    return network, batch(found)


def test_without_perturbation_and_agreement_it_is_the_cross_entropy(given):
    """Card 28 (a)."""
    network, one = given
    plain = float(cross_entropy.loss(network, one).detach())
    assert float(adversarial.loss(network, one, **OFF).detach()) == pytest.approx(plain, abs=1e-6)


def test_the_perturbation_makes_it_worse_the_more_the_longer_it_is(given):
    network, one = given
    losses = [float(adversarial.loss(network, one, eps=e, strength=0.0).detach()) for e in (0.0, 0.02, 0.05)]
    assert losses[0] + 1e-4 < losses[1] < losses[2]
    noise = torch.randn((*one.input_ids.shape, 32), generator=torch.Generator().manual_seed(0))
    with adversarial.embedded(network, None) as seen:
        network(input_ids=one.input_ids)
    x = seen[0].detach()
    random = x + 0.05 * x.square().mean(-1, keepdim=True).sqrt() * adversarial.direction(noise, "linf")
    with adversarial.embedded(network, random):
        by_chance = float(cross_entropy.loss(network, one).detach())
    assert losses[2] - losses[0] > 2 * (by_chance - losses[0]) / 2  # half of the loss is that of the plain text


def test_agreement_is_added_with_its_strength(given):
    network, one = given
    none, some, more = (float(adversarial.loss(network, one, strength=s).detach()) for s in (0.0, 1.0, 3.0))
    assert more - none == pytest.approx(3 * (some - none), rel=1e-3) and some > none + 1e-6
    whole = float(adversarial.loss(network, one, strength=1.0, reduction="sum").detach())
    assert whole - none == pytest.approx(one.tokens_in_step * (some - none), rel=1e-3)


def test_disagreement_is_no_less_than_zero_and_zero_only_for_equals():
    """Card 28 (e), and the number for two coins."""
    draw = torch.Generator().manual_seed(0)
    p, q = (torch.log_softmax(torch.randn(50, 7, generator=draw), -1) for _ in range(2))
    apart = adversarial.divergence(p, q)
    assert float(apart.min()) > 0.01 and not adversarial.divergence(p, p).any()
    assert torch.allclose(apart, adversarial.divergence(q, p))
    coins = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    wanted = 0.5 * (0.4 * np.log(0.9 / 0.5) + 0.4 * np.log(0.5 / 0.1))
    assert float(adversarial.divergence(*coins)) == pytest.approx(wanted, abs=1e-6)


def test_directions_are_of_length_one_in_their_norm():
    gradient = torch.tensor([[[3.0, -4.0], [0.0, 0.0], [1e-3, 0.0]]])
    longest = adversarial.direction(gradient, "linf")[0].flatten().tolist()
    assert longest == pytest.approx([0.75, -1, 0, 0, 1, 0], abs=1e-4)
    assert adversarial.direction(gradient, "l2")[0, 0].tolist() == pytest.approx([0.6, -0.8])
    assert adversarial.direction(gradient, "sign")[0].tolist() == [[1, -1], [0, 0], [1, 0]]


def test_no_gradient_reaches_the_embedding_through_the_neighbour(toy, tmp_path):
    untied = maker.write(tmp_path / "untied", tied=False)
    network, found = words(untied)
    one = batch(found)
    gradients = []
    for loss in (cross_entropy.loss, lambda m, b: adversarial.loss(m, b, strength=0.0)):
        network.zero_grad(set_to_none=True)
        loss(network, one).backward()
        gradients.append(network.model.embed_tokens.weight.grad)
    assert torch.allclose(gradients[1], gradients[0] / 2, atol=1e-7)


def test_each_record_has_its_own_noise_whatever_its_batch(toy):
    _, found = words(toy)
    like = torch.zeros(8, 40, 32)
    whole = adversarial._uniform(batch(found), like)
    part = adversarial._uniform(batch(found, [5, 2]), torch.zeros(2, 30, 32))
    assert torch.equal(part, whole[[5, 2], :30]) and not torch.equal(whole[0], whole[1])
    assert float(whole.min()) >= 0 and float(whole.max()) < 1 and float(whole.mean()) == pytest.approx(0.5, abs=0.02)


def test_a_gradient_that_is_no_number_leaves_the_plain_loss(given):
    network, one = given
    plain = float(cross_entropy.loss(network, one).detach())
    norm = network.model.norm
    norm.register_forward_hook(lambda module, args, made: made.register_hook(lambda g: g * float("nan")) and None)
    assert float(adversarial.loss(network, one).detach()) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("loop", [sft, head])
def test_models_learn_with_it_and_no_hook_is_left(toy, tmp_path, loop):
    rows = Records.from_rows({"id": r["id"], "text": r["text"], "label": "wet" if "river" in r["text"] else "dry"}
                             for r in maker.texts(32))  # fmt: skip
    data = rows if loop is head else maker.questions(32)
    made = loop.train(toy, data, Setup(
        steps=15, batch=16, parameters="full", objective=method("train.objective", "loss", "adversarial"),
        optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2), work=Work(tmp_path),
    ))  # fmt: skip
    assert made.notes["loss"]["last"] < 0.8 * made.notes["loss"]["first"]
