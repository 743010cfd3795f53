from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from metier import recipe, runner
from metier.artefacts import Measure, Records, Task
from metier.disk import files_digest
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Store, Work, silent
from metier.train import examples
from metier.train.loop import sft
from metier.train.rounds import rest_em
from metier.train.run import Run
from metier.train.setup import Setup, method

WORDS = ["river", "bridge", "valve", "meter", "open", "close"]
ROWS = [{"id": f"p{i}", "split": ("train", "dev")[i > 3], "measure": None, "cluster": f"p{i}", "prompt": w}
        for i, w in enumerate(WORDS)]  # fmt: skip
MEASURES = {"right": Measure("write", "domain", "share", "higher", "right", "Right.")}


@dataclasses.dataclass(frozen=True)
class Graded(Task):
    """A task with a rule of its own."""

    rule: object = None

    def grade(self, records, replies):
        return [{"right": self.rule(row, reply)} for row, reply in zip(records, replies, strict=True)]


def task(rule, rows=ROWS):
    return Graded("words", "tasks.general", Records.from_rows(rows), MEASURES, rule=rule)


def short(row, reply):
    """A rule that the random toy keeps now and then."""
    return float(len(reply.text.split()) > 1 and "e" in reply.text.lower())


def setup(folder, progress=silent, **changes):
    given = {"steps": 3, "batch": 8, "micro_tokens": 400, "parameters": "full", "checkpoint_every": 1e-6,
             "optimizer": method("train.optimizer", "optimizer", "adamw", lr=3e-3)}  # fmt: skip
    return Setup(**(given | changes), work=Work(folder, progress))


def train(toy, data, folder, progress=silent, inner="sft", changes=None, **options):
    given = {"rounds": 3, "samples": 8, "max_tokens": 10, "temperature": 1.0} | options
    return rest_em.train(toy, data, setup(folder, progress, **(changes or {})), inner=inner, **given)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Replies kept from an earlier run would hide what is asked."""
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))


class Watching:
    """An inner loop that notes what it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, model, data, setup):
        self.given.append((model, data))
        return sft.train(model, data, setup)


def test_when_nothing_is_right_nothing_is_trained_and_the_base_comes_back(toy, tmp_path):
    inner, before = Watching(), files_digest(toy.path)
    made = train(toy, task(lambda row, reply: 0.0), tmp_path / "a", inner=inner)
    assert inner.given == [] and made.digest == toy.digest and files_digest(made.path) == before
    notes = [r["note"] for r in Work(tmp_path / "a").rows() if "note" in r]
    assert notes == ["round 1: none of 32 samples is right, so nothing can be learnt"]
    assert made.notes["rounds"][0]["solved"] == 0


def test_when_all_is_right_every_different_sample_is_learnt(toy, tmp_path):
    inner = Watching()
    made = train(toy, task(lambda row, reply: 1.0), tmp_path / "a", inner=inner, rounds=1, per_problem=8)
    sampled = Records.load(tmp_path / "a" / "checkpoints" / "sampled-1")
    every = {(r["problem"], r["messages"][-1]["content"]) for r in sampled}
    [(_, data)] = inner.given
    learnt = [(r["problem"], r["messages"][-1]["content"]) for r in data]
    assert len(sampled) == 32 and len(learnt) == len(set(learnt)) and set(learnt) == every
    assert made.notes["rounds"][0] | {"steps": 0, "different": 0} == {
        "round": 1, "right": 1.0, "solved": 1.0, "different": 0, "kept": len(every), "steps": 0,
    }  # fmt: skip


def rows_of(problem, count, weight=1.0):
    return [{"id": f"{problem}#{i}", "problem": problem, "weight": weight,
             "messages": [{"role": "user", "content": problem}, {"role": "assistant", "content": f"way {i}"}]}
            for i in range(count)]  # fmt: skip


def test_a_problem_with_many_right_samples_gives_exactly_per_problem():
    sampled = Records.from_rows([*rows_of("easy", 30), *rows_of("hard", 3), *rows_of("never", 5, 0.0)])
    kept = rest_em.chosen(sampled, 10, seed=0)
    assert Counter(kept.column("problem")) == {"easy": 10, "hard": 3}
    others = [rest_em.chosen(sampled, 10, seed).column("id") for seed in (0, 1)]
    assert others[0] == kept.column("id") != others[1]  # drawn at random, by the seed


def gradient(toy, folder, data, **changes):
    run = Run(toy, data, setup(folder, steps=1, order="given", **changes), examples.conversations, "test")
    batch = run.feed.batch(run.plan[0].rows, run.plan[0])
    run.module(batch, {}).backward()
    return {n: p.grad.clone() for n, p in run.weights.items()}


def test_a_grade_weighs_a_sample_and_a_grade_of_one_is_plain_cross_entropy(toy, tmp_path):
    texts = [r["messages"] for r in rows_of("the river rises", 4)]
    for grades in ([1.0, 1.0, 1.0, 1.0], [0.25, 1.0, 0.5, 2.0]):
        rows = [{"id": str(i), "problem": str(i), "messages": m, "weight": g}
                for i, (m, g) in enumerate(zip(texts, grades, strict=True))]  # fmt: skip
        kept = rest_em.chosen(Records.from_rows(rows), 10, seed=0)
        found = gradient(toy, tmp_path / str(grades[0]), kept)
        network, tokenizer = load.network(toy)
        total, tokens = torch.zeros(()), 0.0
        for row, grade in zip(kept, grades, strict=True):  # record by record, by hand
            ids, labels = examples.tokens.supervised(tokenizer, row)
            logits = network(input_ids=torch.tensor([ids])).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="none")
            total, tokens = total + grade * each.sum(), tokens + grade * int((torch.tensor(labels[1:]) != -100).sum())
        (total / tokens).backward()
        own = dict(network.named_parameters())
        assert all(torch.allclose(g, own[n].grad, atol=1e-5) for n, g in found.items())


@pytest.mark.parametrize("start", ["base", "previous"])
def test_each_round_starts_from_the_base_bit_for_bit_or_from_the_round_before(toy, tmp_path, start):
    inner = Watching()
    train(toy, task(short), tmp_path / "a", inner=inner, start=start)
    begun = [load.network(model)[0].state_dict() for model, _ in inner.given]
    base = load.network(toy)[0].state_dict()
    same = [all(torch.equal(w[n], base[n]) for n in base) for w in begun]
    assert same == [True, start == "base", start == "base"]
    samples = [Records.load(tmp_path / "a" / "checkpoints" / f"sampled-{n}").digest for n in (1, 2, 3)]
    assert len(set(samples)) == 3  # each round samples with the model of the round before


def test_it_learns_what_is_right(toy, tmp_path):
    """The random toy writes bytes that are no character half of the time."""
    plain = task(lambda row, reply: float(reply.text.isascii()))
    fast = method("train.optimizer", "optimizer", "adamw", lr=1e-2)
    made = train(toy, plain, tmp_path / "a", rounds=2, samples=16, max_tokens=3,
                 changes={"steps": 40, "optimizer": fast})  # fmt: skip
    shares = [r["right"] for r in made.notes["rounds"]]
    assert shares[1] > shares[0] + 0.3 > 0.3 and made.notes["steps"] == 80


def test_the_best_watched_round_comes_back_and_it_stops_when_none_is_better(toy, tmp_path):
    grades = iter([0.5, 0.5, 0.9, 0.9, 0.7, 0.7, 0.8, 0.8])  # of two watched problems, the base's first

    def rule(row, reply):
        return next(grades) if row["split"] == "dev" else 1.0

    made = train(toy, task(rule), tmp_path / "a", watch="dev", rounds=3, stale=1)
    assert made.notes["best_round"] == 1 and len(made.notes["rounds"]) == 2
    assert [r["grade"] for r in made.notes["rounds"]] == [0.9, 0.7] and made.notes["grade_before"] == 0.5
    first = tmp_path / "a" / "checkpoints" / "round-1" / "model"
    assert made.path == tmp_path / "a" / "model" and files_digest(made.path) == files_digest(first)
    grades = iter([0.5, 0.5, 0.4, 0.4])
    worse = train(toy, task(rule), tmp_path / "b", watch="dev", rounds=3, stale=1)
    assert worse.notes["best_round"] == 0 and worse.digest == toy.digest


@pytest.mark.parametrize("parameters", ["full", method("train.parameters", "prepare", "lora", rank=4)])
def test_killed_anywhere_it_samples_nothing_twice_and_ends_with_the_same_bytes(toy, tmp_path, parameters):
    changes = {"parameters": parameters}
    whole = train(toy, task(short), tmp_path / "whole", changes=changes)
    for steps in (2, 4, 4):
        with pytest.raises(Interrupt):
            train(toy, task(short), tmp_path / "killed", Stopping(steps), changes=changes)
    marks = sorted((tmp_path / "killed").glob("checkpoints/sampled-*/made.json"))
    written = [mark.stat().st_mtime_ns for mark in marks]
    again = train(toy, task(short), tmp_path / "killed", changes=changes)
    assert len(marks) >= 2 and [mark.stat().st_mtime_ns for mark in marks] == written
    assert again.digest == whole.digest and files_digest(again.path) == files_digest(whole.path)
    logged = [[(r["stage"], r["step"], r["loss"]) for r in Work(tmp_path / n).rows() if "loss" in r]
              for n in ("whole", "killed")]  # fmt: skip
    assert logged[0] == logged[1] and [s for s, _, _ in logged[0]] == [1] * 3 + [2] * 3 + [3] * 3
    rounds = [r for r in Work(tmp_path / "killed").rows() if r.get("event") == "round"]
    assert [r["round"] for r in rounds] == [1, 2, 3]


def test_a_recipe_runs_it_and_its_result_outlives_the_checkpoints(toy, tmp_path):
    text = f"""
    base: {{use: model, path: {toy.path}}}
    sums: {{use: tasks.arithmetic, digits: [1], shown: 4, train: 4, dev: 2, test: 2}}
    made: {{use: train.rounds.rest_em, model: $base, data: $sums, rounds: 1, samples: 2, max_tokens: 4, steps: 1,
            inner: sft, watch: dev}}
    report: {{use: evaluate.pass_at, chats: {{base: $base, made: $made}}, tasks: [$sums], n: 2, k: 2, max_tokens: 4}}
    """
    done = runner.run(recipe.check(recipe.parse(text)), Store(tmp_path / "store"))
    assert set(done["report"].open().numbers["totals"]) == {"base", "made"}


@pytest.mark.parametrize("data, words", [
    (lambda: task(short, [r | {"split": "test"} for r in ROWS]), "records have no split 'train'; they have: test"),
    (lambda: task(short, [*ROWS, ROWS[0] | {"id": "x", "prompt": " "}]), "problem 'x' has no 'prompt' to be asked"),
    (lambda: task(lambda row, reply: float("nan")), "a reply to 'p0' must be a number of at least 0, got right = nan"),
    (lambda: task(lambda row, reply: -1.0), "a reply to 'p0' must be a number of at least 0, got right = -1.0"),
])  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused(toy, tmp_path, data, words):
    with pytest.raises(MetierError) as error:
        train(toy, data(), tmp_path / "a")
    assert words in str(error.value)


def test_a_split_to_watch_that_is_not_there_is_refused(toy, tmp_path):
    with pytest.raises(MetierError, match="records have no split 'deb'"):
        train(toy, task(short), tmp_path / "a", watch="deb")
