from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier import recipe
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm.loss import IGNORED, Supervised
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import batches, examples
from metier.train.loop import sft
from metier.train.objective import cross_entropy, talr
from metier.train.run import Run
from metier.train.setup import Setup, method

P = torch.tensor([0.9, 0.5, 0.1])
LOSSES = -P.log()


def bound(**values):
    return method("train.objective", "loss", "talr", **values)


def sgd(groups, *, lr=0.1):
    return torch.optim.SGD(groups, lr=lr)


def run(toy, folder, **changes):
    given = {"steps": 4, "batch": 8, "length": 64, "optimizer": sgd, "schedule": "constant", "max_grad_norm": 0.0,
             "objective": bound(), "parameters": "full"} | changes  # fmt: skip
    return Run(toy, maker.questions(24), Setup(**given, work=Work(folder)), examples.conversations, "test")


def batch(toy, rows=8):
    made = examples.conversations(AutoTokenizer.from_pretrained(toy.path), maker.questions(rows), 64)
    window = np.arange(rows)
    return batches.collate(made, window, window, seed=0, epoch=0, progress=0.0, device=torch.device("cpu"))


def sequence_means(network, given):
    """Mean loss of the supervised tokens of each row, by plain transformers."""
    with torch.no_grad():
        logits = network(input_ids=given.input_ids).logits[:, :-1]
    labels = given.labels[:, 1:]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return each, each.sum(1) / (labels != IGNORED).sum(1)


@pytest.mark.parametrize("tau, floor, mean", [
    (1.0, 0.0, 0.223886), (0.5, 0.0, 0.093885), (1e9, 0.0, 1.033698), (1e9, 0.01, 1.033698),
])  # fmt: skip
def test_the_numbers_of_the_card(tau, floor, mean):
    assert float((talr.weights(LOSSES, tau, floor) * LOSSES).mean()) == pytest.approx(mean, abs=1e-6)


def test_the_least_weight_is_the_floor_exactly():
    losses = torch.tensor([-math.log(1e-6), 0.0])
    assert torch.equal(talr.weights(losses, 1.0, 0.01), torch.tensor([0.01, 1.0]))
    assert float(talr.weights(losses, 1.0, 0.0)[0]) == pytest.approx(1e-6, rel=1e-5)


def test_a_large_tau_is_cross_entropy(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    plain = float(cross_entropy.loss(network, batch(toy)).detach())
    assert float(talr.loss(network, batch(toy), {}, tau=1e9).detach()) == pytest.approx(plain, abs=1e-5)
    assert float(talr.loss(network, batch(toy), {}, tau=1.0).detach()) < 0.9 * plain


@pytest.mark.parametrize("normalise", ["tokens", "weights", "sequences"])
def test_no_gradient_goes_through_the_weights(toy, monkeypatch, normalise):
    """Its gradient with respect to the logits is w · (p − onehot) / n."""
    logits = torch.randn((5, 7), generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels, rows = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 1, 1])
    monkeypatch.setattr(talr.lm_loss, "supervised", lambda *_: Supervised(labels, rows, logits=logits))
    given = batch(toy, 2)
    given.weight_in_step = 5.0
    talr.loss(torch.nn.Identity(), given, {}, tau=0.7, floor=0.05, normalise=normalise).backward()
    p = logits.detach().softmax(-1)
    w = (p[torch.arange(5), labels] ** (1 / 0.7)).clamp(min=0.05)
    wanted = w[:, None] * (p - torch.nn.functional.one_hot(labels, 7))
    size = {
        "tokens": torch.full((5,), 5.0),
        "weights": w.sum().expand(5),
        "sequences": torch.tensor([6.0] * 3 + [4.0] * 2),
    }
    assert torch.allclose(logits.grad, wanted / size[normalise][:, None], atol=1e-6)


def test_tau_is_the_median_over_sequences_not_over_tokens(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    given = batch(toy, 5)
    each, means = sequence_means(network, given)
    tokens = each[given.labels[:, 1:] != IGNORED]
    tau = float(np.median(means.numpy()))
    assert abs(tau - float(np.median(tokens.numpy()))) > 1e-3
    wanted = float((talr.weights(tokens, tau, 0.01) * tokens).sum() / len(tokens))
    assert float(talr.loss(network, given, {}, tau="batch").detach()) == pytest.approx(wanted, abs=1e-5)
    memory = talr.start(network, iter([given]), window=5)
    assert torch.allclose(memory["recent"], means, atol=1e-5)
    assert float(talr.loss(network, given, memory).detach()) == pytest.approx(wanted, abs=1e-5)
    assert torch.allclose(given.seen["loss"], means, atol=1e-5)


def test_the_first_look_is_at_no_more_than_the_window(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    looked = []
    stream = (looked.append(i) or batch(toy, 8) for i in range(9))
    assert len(talr.start(network, stream, window=12)["recent"]) == 12 and looked == [0, 1]
    assert talr.start(network, iter([batch(toy, 8)]), tau="batch") == talr.start(network, iter([]), tau=1.0) == {}


def test_recent_sequences_push_out_the_oldest():
    memory = {"recent": torch.tensor([1.0, 2.0, 3.0])}
    assert talr.remember(memory, {"loss": torch.tensor([4.0, 5.0])})["recent"].tolist() == [3, 4, 5]
    assert talr.remember(memory, {"loss": torch.arange(9.0)})["recent"].tolist() == [6, 7, 8]
    assert talr.remember({}, {"loss": torch.arange(9.0)}) == {}


def test_a_memorised_set_leaves_a_least_temperature():
    nothing = Supervised(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert talr.temperature(nothing, torch.ones(1), "recent", {"recent": torch.zeros(4)}) == 1e-6
    assert torch.isfinite(talr.weights(torch.tensor([0.0, 5.0]), 1e-6, 0.01)).all()


def test_without_a_label_it_is_0_with_a_graph(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    given = batch(toy, 2)
    given.labels[:] = IGNORED
    found = talr.loss(network, given, {"recent": torch.ones(3)})
    found.backward()
    assert float(found.detach()) == 0 and network.model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("normalise", ["tokens", "sequences"])
def test_steps_are_the_same_however_they_are_cut_tau_included(toy, tmp_path, normalise):
    whole, parts = (run(toy, tmp_path / str(m), micro_tokens=m, objective=bound(window=20, normalise=normalise))
                    for m in (4000, 80))  # fmt: skip
    assert len(whole.feed.cut(whole.plan[0])) == 1 and len(parts.feed.cut(parts.plan[0])) > 2
    first = whole.memory["objective"]["recent"]
    assert len(first) == 20 and torch.allclose(first, parts.memory["objective"]["recent"], atol=1e-5)
    for _ in whole.plan:
        one, other = whole.step(), parts.step()
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    assert torch.allclose(whole.memory["objective"]["recent"], parts.memory["objective"]["recent"], atol=1e-5)
    assert not torch.allclose(whole.memory["objective"]["recent"], first, atol=1e-2)
    assert all(torch.allclose(w, parts.weights[n], atol=1e-6) for n, w in whole.weights.items())


def test_record_weights_weigh_in_every_normalisation(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    for normalise in ("tokens", "weights", "sequences"):
        given = batch(toy, 3)
        given.weight[:] = torch.tensor([2.0, 0.0, 0.0])
        alone = batch(toy, 3)
        alone.labels[1:] = IGNORED
        given.weight_in_step = alone.weight_in_step = 10.0
        both = [float(talr.loss(network, b, {}, tau=1.0, normalise=normalise).detach()) for b in (given, alone)]
        factor = 1 if normalise == "weights" else 2
        assert both[0] == pytest.approx(factor * both[1], rel=1e-5)


def test_killed_and_gone_on_it_ends_with_the_same_bytes(toy, tmp_path):
    def train(name, progress=silent):
        return sft.train(toy, maker.questions(24), Setup(
            steps=6, batch=8, micro_tokens=100, objective=bound(window=8), checkpoint_every=1e-6, parameters="full",
            work=Work(tmp_path / name, progress),
        ))  # fmt: skip

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(4))
    assert train("killed").digest == whole.digest


@pytest.mark.parametrize("values", [{"tau": "batch"}, {"normalise": "weights"}])
def test_what_needs_a_whole_step_is_refused_when_it_is_cut(toy, tmp_path, values):
    with pytest.raises(MetierError, match=r"train.objective.talr: takes a whole step in 1 micro-batch"):
        run(toy, tmp_path, objective=bound(**values), micro_tokens=80)
    assert math.isfinite(run(toy, tmp_path, objective=bound(**values), micro_tokens=4000).step()["loss"])


@pytest.mark.parametrize("option, words", [
    ("tau: -1", "'tau' must be"), ("tau: .nan", "'tau' must be"), ("tau: 0", "'tau' must be"),
    ("tau: median", "'tau' must be"), ("floor: 2", "'floor' must be"), ("floor: -0.1", "'floor' must be"),
    ("window: 0", "'window' must be"),
])  # fmt: skip
def test_bad_options_are_refused(toy, option, words):
    text = f"""
a: {{use: model, path: {toy.path}}}
d: {{use: data.ingest.invented, kind: questions}}
b: {{use: train.loop.sft, model: $a, data: $d, steps: 1, objective: {{use: talr, {option}}}}}
"""
    with pytest.raises(MetierError, match=f"train.objective.talr: {words}"):
        recipe.check(recipe.parse(text))
