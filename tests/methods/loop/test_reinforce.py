from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint

pytest.importorskip("trl")

from metier import recipe, runner
from metier.artefacts import Measure, Records, Task
from metier.disk import files_digest
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load, recompute, tokens
from metier.options import MetierError
from metier.store import Store, Work, silent
from metier.train.loop import _rewarded, head, reinforce
from metier.train.setup import Setup, Trainable, method

WORDS = ["river", "bridge", "valve", "meter", "open", "close"]
ROWS = [{"id": f"p{i}", "split": "train", "measure": None, "cluster": f"p{i}", "prompt": w}
        for i, w in enumerate(WORDS)]  # fmt: skip
MEASURES = {"right": Measure("write", "domain", "share", "higher", "right", "Right.")}


@dataclasses.dataclass(frozen=True)
class Graded(Task):
    """A task with a rule of its own."""

    rule: Callable[..., float] = lambda row, reply: 0.0

    def grade(self, records, replies):
        return [{"right": self.rule(row, reply), "other": 1.0} for row, reply in zip(records, replies, strict=True)]


def task(rule, rows=ROWS):
    return Graded("words", "tasks.general", Records.from_rows(rows), MEASURES, rule=rule)


def vowels(row, reply):
    """Something that the random toy does more or less of."""
    return sum(c in "aeiou" for c in reply.text) / 10


def optimizer(name="adamw", **values):
    return method("train.optimizer", "optimizer", name, **values)


def setup(folder, progress=silent, **changes):
    given = {"steps": 4, "batch": 3, "micro_tokens": 400, "parameters": "full", "checkpoint_every": 1e-6,
             "optimizer": optimizer(lr=3e-3)}  # fmt: skip
    return Setup(**(given | changes), work=Work(folder, progress))


def train(toy, folder, rule=vowels, progress=silent, samples=6, max_tokens=8, rows=ROWS, **changes):
    return reinforce.train(toy, task(rule, rows), setup(folder, progress, **changes), samples=samples,
                           max_tokens=max_tokens)  # fmt: skip


def logged(folder):
    return [row for row in Work(folder).rows() if "loss" in row]


def weights(model):
    return load.network(model)[0].state_dict()


@pytest.fixture
def sampled(monkeypatch):
    """What each step sampled: numbers of the problems, ids and rewards of their replies."""
    seen: list[Any] = []
    real = _rewarded.Rewarded.reward

    def reward(self, completions, completion_ids, number, ends):
        found = real(self, completions, completion_ids, number, ends)
        seen.append((number, completion_ids, found))
        return found

    monkeypatch.setattr(_rewarded.Rewarded, "reward", reward)
    return seen


def test_one_update_is_the_formula_s(toy, tmp_path, sampled):
    rate = 0.5
    made = train(toy, tmp_path, steps=1, optimizer=optimizer("sgd", lr=rate), schedule="constant", max_grad_norm=0.0)
    [(numbers, ids, rewards)] = sampled
    assert numbers == [n for n in dict.fromkeys(numbers) for _ in range(6)] and len(set(numbers)) == 3
    network, tokenizer = load.network(toy)
    of_one = torch.tensor(rewards).reshape(3, 6)
    advantage = ((of_one - of_one.mean(1, keepdim=True)) / (of_one.std(1, keepdim=True) + 1e-4)).reshape(-1)
    total = torch.zeros(())
    for number, reply, a in zip(numbers, ids, advantage, strict=True):
        asked = tokens.prompt(tokenizer, [{"role": "user", "content": WORDS[number]}])
        logits = network(input_ids=torch.tensor([asked + reply])).logits[0, len(asked) - 1 : -1]
        total = total - a * log_softmax(logits, -1)[range(len(reply)), reply].sum()
    (total / sum(map(len, ids))).backward()
    after = weights(made)
    for name, before in network.named_parameters():
        assert torch.allclose(after[name], before.detach() - rate * before.grad, atol=2e-5), name


def test_blocks_that_are_computed_again_change_nothing(toy, tmp_path, monkeypatch):
    """TRL samples in training mode with a cache of keys and values: that goes by."""
    kept = train(toy, tmp_path / "kept")
    again = []
    monkeypatch.setattr(recompute, "checkpoint", lambda *a, **k: again.append(a) or checkpoint(*a, **k))
    assert train(toy, tmp_path / "again", recompute=True).digest == kept.digest
    assert again


def test_it_learns_what_is_rewarded(toy, tmp_path):
    made = train(toy, tmp_path, steps=25, batch=6, samples=8, optimizer=optimizer(lr=1e-2))
    rewards = [row["reward"] for row in logged(tmp_path)]
    assert np.mean(rewards[-5:]) > 1.5 * np.mean(rewards[:5])
    assert made.notes["reward"] == {"first": rewards[0], "last": rewards[-1]} and made.notes["steps"] == 25


def test_micro_batches_change_nothing(toy, tmp_path, sampled):
    steady = optimizer("sgd", lr=0.1)
    runs = [weights(train(toy, tmp_path / str(m), micro_tokens=m, optimizer=steady)) for m in (4000, 60)]
    assert sampled[:4] == sampled[4:]
    assert all(torch.allclose(w, runs[1][n], atol=1e-6) for n, w in runs[0].items())


def test_hooks_rates_and_clipping_come_in_their_order(toy, tmp_path):
    seen = []

    def prepare(network):
        parameters = list(network.module.parameters())

        def norm():
            return float(torch.nn.utils.get_total_norm([p.grad for p in parameters]))

        def edit(clock):
            for p in parameters:
                p.grad.mul_(1000)
            seen.append(("edit", clock.step, clock.steps, clock.optimizer.param_groups[0]["lr"], norm()))
            before.append([p.detach().clone() for p in parameters])

        def after_step(clock):
            moved = [a - b.detach() for a, b in zip(before.pop(), parameters, strict=True)]
            length = float(torch.nn.utils.get_total_norm(moved))
            seen.append(("after", clock.step, length / clock.optimizer.param_groups[0]["lr"]))
            clock.optimizer.param_groups[0]["scale"] = 0.5

        before: list[Any] = []
        return Trainable(network=network, groups=[{"params": parameters, "scale": 2.0}], edit=edit,
                         after_step=after_step, finish=lambda folder: toy)  # fmt: skip

    train(toy, tmp_path, steps=2, parameters=prepare, optimizer=optimizer("sgd", lr=1e-3), schedule="linear",
          max_grad_norm=0.25)  # fmt: skip
    assert [(s[0], s[1]) for s in seen] == [("edit", 0), ("after", 0), ("edit", 1), ("after", 1)]
    assert [s[3] for s in seen if s[0] == "edit"] == pytest.approx([1e-3 * 2 / 3 * 2.0, 1e-3 / 3 * 0.5])
    assert all(s[4] > 1 for s in seen if s[0] == "edit")
    assert [s[2] for s in seen if s[0] == "after"] == pytest.approx([0.25, 0.25], rel=1e-3)  # edited, then clipped
    assert [row["lr"] for row in logged(tmp_path)] == pytest.approx([1e-3 * 2 / 3, 1e-3 / 3])


@pytest.mark.parametrize("parameters", [
    "full", method("train.parameters", "prepare", "lora", rank=4, dropout=0.1),
    method("train.parameters", "prepare", "freeze", train=["model.layers.1.*"]),
])  # fmt: skip
def test_killed_it_goes_on_and_ends_with_the_same_bytes(toy, tmp_path, parameters):
    whole = train(toy, tmp_path / "whole", parameters=parameters)
    for steps in (2, 4):  # in the middle, and when the last step is kept but nothing is written
        with pytest.raises(Interrupt):
            train(toy, tmp_path / "killed", progress=Stopping(steps), parameters=parameters)
        kept = sorted(p.name for p in (tmp_path / "killed" / "checkpoints").glob("step-*"))
        assert kept == [f"step-{n:09d}" for n in (steps - 1, steps)]
    again = train(toy, tmp_path / "killed", parameters=parameters)
    assert again.digest == whole.digest and files_digest(again.path) == files_digest(whole.path)
    both = [[(r["step"], r["loss"], r["reward"]) for r in logged(tmp_path / n)] for n in ("whole", "killed")]
    assert both[0] == both[1] and len(both[0]) == 4
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {".json", ".jsonl", ".safetensors", ".jinja"}


def test_what_is_frozen_stays_bit_for_bit(toy, tmp_path):
    some = method("train.parameters", "prepare", "freeze", train=["model.layers.1.*"])
    before, after = weights(toy), weights(train(toy, tmp_path, parameters=some))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all(n.startswith("model.layers.1.") for n in moved)


def test_bottlenecks_and_lora_learn_too(toy, tmp_path):
    for name in ("bottleneck", "lora"):
        made = train(toy, tmp_path / name, parameters=method("train.parameters", "prepare", name), steps=2)
        assert made.base == toy and made.notes["parameters_trained"] > 0


def test_settings_randomness_and_privacy_are_left_alone(toy, tmp_path, monkeypatch):
    import trl.trainer.base_trainer as theirs

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(theirs, "send_telemetry", lambda *a, **k: pytest.fail("it tells somebody"))
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    made = train(toy, tmp_path, steps=1)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    for name in ("config.json", "generation_config.json"):
        held, now = (json.loads((m.path / name).read_text()) for m in (toy, made))
        assert held == now, name


def test_the_order_of_problems_is_a_pure_function_of_the_seed(tmp_path):
    def steps(**changes):
        return reinforce._plan(5, setup(tmp_path, **changes))

    assert steps(steps=5, batch=2) == steps(steps=5, batch=2) != steps(steps=5, batch=2, seed=1)
    assert sorted(n for step in steps(steps=5, batch=2) for n in step) == sorted([*range(5)] * 2)
    assert steps(steps=3, batch=2, order="given") == [[0, 1], [2, 3], [4, 0]]
    assert [len(s) for s in steps(steps=None, epochs=1.0, batch=2)] == [2, 2, 2]
    assert [len(s) for s in steps(steps=2, batch=9)] == [5, 5]


def test_a_reward_that_is_no_number_ends_it_in_a_sentence(toy, tmp_path):
    with pytest.raises(MetierError, match=r"the grade of a reply to 'p\d' must be a number, got right = nan"):
        train(toy, tmp_path, rule=lambda row, reply: float("nan"))


def test_a_reward_that_never_differs_ends_it_in_a_sentence(toy, tmp_path, monkeypatch):
    with pytest.raises(MetierError, match=r"in 4 steps all replies to a problem got the same reward \(at last 0\.5 in"):
        train(toy, tmp_path / "a", rule=lambda row, reply: 0.5)
    monkeypatch.setattr(_rewarded, "SILENT", 2)
    with pytest.raises(MetierError, match="in 2 steps all replies"):
        train(toy, tmp_path / "b", rule=lambda row, reply: float(row["id"][1]), steps=9)


def test_steps_without_a_signal_are_counted_and_told(toy, tmp_path):
    calls = iter(range(10**6))
    made = train(toy, tmp_path, rule=lambda row, reply: vowels(row, reply) if next(calls) < 18 else 1.0, steps=3)
    assert made.notes["silent_steps"] == 2
    assert [row["constant"] for row in logged(tmp_path)][1:] == [1.0, 1.0]
    notes = [row["note"] for row in Work(tmp_path).rows() if "note" in row]
    assert notes == ["in 2 of 3 steps every reply to a problem got the same reward, so that they taught nothing"]


@pytest.mark.parametrize("changes, words", [
    ({"dev": maker.questions(2)}, "has no use for 'dev'"),
    ({"steps": None, "tokens": 100}, "has no use for 'tokens'"),
    ({"batch": None, "step_tokens": 100}, "has no use for 'step_tokens'"),
    ({"terms": ["l2_start"]}, "has no use for 'terms'"),
    ({"optimizer": optimizer("lomo"), "max_grad_norm": 0.0}, "needs whole gradients, which train.optimizer.lomo never"),
    ({"parameters": method("train.parameters", "prepare", "adapter", kind="prompt")}, "takes no adapter of the output"),
    ({"parameters": method("train.parameters", "prepare", "lora", targets=["lm_head"])}, "takes no adapter of the out"),
    ({"length": 4}, "the prompt of 'p0' has 19 tokens, more than 'length', 4"),
    ({"rows": [r | {"split": "test"} for r in ROWS]}, "records have no split 'train'; they have: test"),
])  # fmt: skip
def test_what_it_cannot_honour_is_refused(toy, tmp_path, changes, words):
    with pytest.raises(MetierError) as error:
        train(toy, tmp_path, **changes)
    assert words in str(error.value)


def test_a_penalty_and_a_classifier_are_refused(toy, tmp_path):
    def prepare(network):
        return Trainable(network=network, groups=[{"params": list(network.module.parameters())}],
                         penalty=lambda batch: torch.zeros(()), finish=lambda folder: toy)  # fmt: skip

    with pytest.raises(MetierError, match=r"cannot honour .*, which changes batches or the loss"):
        train(toy, tmp_path, parameters=prepare)
    rows = [{"id": r["id"], "text": r["text"], "label": "ab"[i % 2]} for i, r in enumerate(maker.texts(8))]
    classifier = head.train(toy, Records.from_rows(rows), Setup(steps=1, work=Work(tmp_path / "c")))
    with pytest.raises(MetierError, match="needs a model that writes, got one with the head 'labels'"):
        train(classifier, tmp_path / "d")


def test_a_recipe_is_checked_and_runs(toy, tmp_path):
    text = f"""
    base: {{use: model, path: {toy.path}}}
    sums: {{use: tasks.general, choice: 1, prose: 1, arithmetic: 0, grammar: 0, forms: 6}}
    made: {{use: train.loop.reinforce, model: $base, data: $sums, steps: 1, OPTION, samples: 2, max_tokens: 2}}
    """
    with pytest.raises(MetierError, match="has no use for 'objective'"):
        recipe.check(recipe.parse(text.replace("OPTION", "objective: talr")))
    with pytest.raises(MetierError, match=r"'samples' must be at least 2, got 1"):
        recipe.check(recipe.parse(text.replace("OPTION", "batch: 2").replace("samples: 2", "samples: 1")))
    calls = recipe.check(recipe.parse(text.replace("OPTION", "batch: 2")))
    with pytest.raises(MetierError, match="records have no split 'train'"):
        runner.run(calls, Store(tmp_path))
