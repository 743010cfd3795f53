from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import pretrain, sft
from metier.train.run import Run
from metier.train.setup import Setup, method, trained
from metier.train.term import l2_start


def bound(**values):
    return method("train.term", "term", "l2_start", **values)


def sgd(groups, *, lr=0.1):
    return torch.optim.SGD(groups, lr=lr)


def run(toy, folder, **changes):
    given = {"steps": 4, "batch": 8, "length": 32, "optimizer": sgd, "schedule": "constant", "max_grad_norm": 0.0}
    return Run(toy, maker.texts(40), Setup(**(given | changes), work=Work(folder)), examples.packed, "test")


def test_the_distance_is_exact_and_its_gradient_twice_the_difference():
    now = {"a": torch.tensor([[1.0, 2.0]], requires_grad=True), "b": torch.tensor([3.0], requires_grad=True)}
    origin = {"a": torch.tensor([[0.0, 4.0]]), "b": torch.tensor([2.5])}
    value = l2_start.squared_distance(now, origin)
    assert float(value.detach()) == 1 + 4 + 0.25
    value.backward()
    assert now["a"].grad.tolist() == [[2.0, -4.0]] and now["b"].grad.tolist() == [1.0]


def test_a_step_counts_it_once_however_it_is_cut(toy, tmp_path):
    plain = run(toy, tmp_path / "p", parameters="full")
    runs = [run(toy, tmp_path / str(m), parameters="full", terms=[bound(strength=0.5)], micro_tokens=m)
            for m in (4000, 70)]  # fmt: skip
    assert len(runs[1].feed.cut(runs[1].plan[0])) > 2
    for r in runs:
        with torch.no_grad():
            for weight in r.weights.values():
                weight.add_(0.01)
    moved = sum(w.numel() for w in runs[0].weights.values())
    with torch.no_grad():
        for weight in plain.weights.values():
            weight.add_(0.01)
    expected = plain.step()["loss"] + 0.5 * moved * 0.01**2
    for r in runs:
        assert r.step()["loss"] == pytest.approx(expected, rel=1e-5)
    assert all(torch.allclose(w, runs[1].weights[n], atol=1e-6) for n, w in runs[0].weights.items())


def test_it_is_at_rest_at_the_start_and_its_pull_is_the_formula_s(toy, tmp_path):
    """One step of plain gradient descent with the term is the step without it, less 2 · rate · strength · distance."""
    with_term, without = (run(toy, tmp_path / n, parameters="full", terms=t)
                          for n, t in (("a", [bound(strength=0.3)]), ("b", [])))  # fmt: skip
    first = with_term.step()["loss"], without.step()["loss"]
    assert first[0] == first[1]
    assert all(torch.allclose(w, without.weights[n], atol=1e-6) for n, w in with_term.weights.items())
    away = {n: w.detach() - with_term.memory["term0"][n] for n, w in with_term.weights.items()}
    with_term.step(), without.step()
    for name, weight in with_term.weights.items():
        assert torch.allclose(weight, without.weights[name] - 2 * 0.1 * 0.3 * away[name], atol=1e-5)


@pytest.mark.parametrize("parameters", [
    "full", method("train.parameters", "prepare", "lora", rank=4),
    method("train.parameters", "prepare", "freeze", train=["model.layers.1.*"]),
])  # fmt: skip
def test_it_keeps_exactly_what_trains_and_a_strong_pull_stays_closer(toy, tmp_path, parameters):
    def moved(strength):
        r = run(toy, tmp_path / str(strength), parameters=parameters, terms=[bound(strength=strength)], steps=10)
        assert set(r.memory["term0"]) == set(r.weights)
        for _ in r.plan:
            r.step()
        return float(l2_start.squared_distance(r.weights, r.memory["term0"]))

    assert moved(2.0) < 0.7 * moved(1e-6)


def test_a_training_that_goes_on_pulls_to_the_first_start(toy, tmp_path):
    setup = {"parameters": method("train.parameters", "prepare", "lora", rank=4), "terms": [bound(strength=1.0)]}
    first = run(toy, tmp_path, **setup)
    origin = trained(first.network)
    first.step(), first.step()
    first.save()
    saved = list((tmp_path / "checkpoints").rglob("memory.safetensors"))
    assert len(saved) == 1 and saved[0].stat().st_size < 100  # the start is not in it …
    again = run(toy, tmp_path, **setup)
    again.resume()
    assert not all(torch.equal(again.weights[n], origin[n]) for n in origin)
    assert all(torch.equal(again.memory["term0"][n], origin[n]) for n in origin)  # … it is made anew
    assert [first.step()["loss"], first.step()["loss"]] == [again.step()["loss"], again.step()["loss"]]


def test_killed_and_gone_on_it_ends_with_the_same_bytes(toy, tmp_path):
    def train(name, progress=silent):
        return sft.train(toy, maker.questions(24), Setup(
            steps=6, batch=8, micro_tokens=100, terms=[bound(strength=1.0)], checkpoint_every=1e-6, parameters="full",
            work=Work(tmp_path / name, progress),
        ))  # fmt: skip

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(4))
    assert train("killed").digest == whole.digest


def test_it_joins_other_terms_and_an_objective_with_a_memory(toy, tmp_path):
    import objective_with_memory as objective

    r = run(toy, tmp_path, objective=objective.loss, terms=[bound(), bound(strength=2.0)], steps=2)
    assert set(r.memory) == {"objective", "term0", "term1"}
    r.step()
    assert int(r.memory["objective"]["steps"]) == 1


def test_a_strength_of_nothing_is_refused(toy, tmp_path):
    from metier import recipe

    text = f"a: {{use: model, path: {toy.path}}}\n" + (
        "b: {use: train.loop.pretrain, model: $a, data: $a, steps: 1, terms: [{use: l2_start, strength: 0}]}"
    )
    with pytest.raises(MetierError):
        recipe.check(recipe.parse(text))
    made = pretrain.train(toy, maker.texts(8), Setup(steps=1, terms=["l2_start"], work=Work(tmp_path)))
    assert isinstance(load.network(made)[0], PeftModel)
