"""The table of policies with the numbers of the paper, and what trains by them."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
import torch

from metier.laws import toy as maker
from metier.options import MetierError
from metier.store import Work
from metier.train import examples
from metier.train.run import Run
from metier.train.schedule import exponential, inverse, polynomial, sigmoid, step
from metier.train.schedule._policies import POLICIES, Knobs, value
from metier.train.setup import Setup, method

KNOBS = Knobs(low=0.1, high=0.5, decay=0.5, power=2.0, length=10, bounds=(5, 12))


def rates(name, *steps, **changes):
    return [value(name, i, dataclasses.replace(KNOBS, **changes)) for i in steps]


def test_the_table_holds_every_policy():
    waves = [w + fade for w in ("TRI", "DTRI", "SIN", "DSIN", "COS", "UPCOS") for fade in ("", "2", "EXP")]
    saws = [w + fade for w in ("RSW", "SINRSW", "COSRSW") for fade in ("", "2", "EXP")]
    assert set(POLICIES) == {"FIX", "STEP", "NSTEP", "EXP", "INV", "POLY", "SIG", *waves, *saws}


@pytest.mark.parametrize("name, steps, wanted", [
    ("TRI", (0, 5, 10, 15, 20), (0.1, 0.3, 0.5, 0.3, 0.1)),
    ("COS", (0, 5, 10, 20), (0.5, 0.3, 0.1, 0.5)),
    ("RSW", (1, 9, 11), (0.46, 0.14, 0.46)),
    ("FIX", (0, 99), (0.1, 0.1)),
    ("STEP", (0, 9, 10, 25), (0.1, 0.1, 0.05, 0.025)),
    ("NSTEP", (0, 4, 5, 11, 12, 99), (0.1, 0.1, 0.05, 0.05, 0.025, 0.025)),
    ("EXP", (0, 1, 3), (0.1, 0.05, 0.0125)),
    ("INV", (0, 2), (0.1, 0.025)),
    ("POLY", (0, 5, 10), (0.5, 0.2, 0.1)),
    ("SIG", (10, 12), (0.05, 0.1 / (1 + 2.718281828459045**-1))),
    ("DTRI", (0, 5, 10, 15, 20), (0.5, 0.3, 0.1, 0.3, 0.5)),
    ("TRI2", (10, 20, 30, 50), (0.5, 0.1, 0.3, 0.2)),
    ("DTRI2", (0, 9.5, 10, 20, 40), (0.5, 0.12, 0.1, 0.3, 0.2)),
    ("TRIEXP", (5, 10), (0.1 + 0.2 * 0.5**5, 0.1 + 0.4 * 0.5**10)),
    ("DTRIEXP", (0, 5), (0.5, 0.1 + 0.2 * 0.5**5)),
    ("SIN", (0, 10, 20), (0.1, 0.5, 0.1)),
    ("SIN", (10 / 3,), (0.1 + 0.4 * 0.5,)),
    ("DSIN2", (0, 20), (0.5, 0.3)),
    ("UPCOS", (0, 5, 10, 20), (0.1, 0.3, 0.5, 0.1)),
    ("UPCOS2", (10, 30), (0.5, 0.3)),
    ("COS2", (0, 20, 40), (0.5, 0.3, 0.2)),
    ("COSEXP", (0, 20), (0.5, 0.1 + 0.4 * 0.5**20)),
    ("RSW2", (1, 11, 21), (0.46, 0.28, 0.19)),
    ("RSWEXP", (5,), (0.1 + 0.2 * 0.5**5,)),
    ("SINRSW", (5, 1), (0.1 + 0.4 * 0.5**0.5, 0.1 + 0.4 * 0.9876883405951378)),
    ("COSRSW", (5, 2.5), (0.3, 0.1 + 0.4 * 0.8535533905932737)),
])  # fmt: skip
def test_rates(name, steps, wanted):
    assert rates(name, *steps) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["RSW", "SINRSW", "COSRSW"])
def test_the_step_of_a_restart_is_high_unless_the_paper_s_code_is_wanted(name):
    assert rates(name, 0, 10, 20) == pytest.approx([0.5] * 3, abs=1e-12)
    assert rates(name, 0, 10, 20, fix_restart=False) == pytest.approx([0.1] * 3, abs=1e-12)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_remembers_nothing(name):
    steps = list(range(60))
    whole = rates(name, *steps)
    random.Random(0).shuffle(steps)
    assert [rates(name, i)[0] for i in steps] == [whole[i] for i in steps]


@pytest.mark.parametrize("name", POLICIES)
def test_a_number_that_lacks_is_named(name):
    needs, _ = POLICIES[name]
    for need in needs:
        with pytest.raises(MetierError, match=f"the learning-rate policy {name} needs '{need}'"):
            rates(name, 1, **{need: float("nan")})


def test_a_policy_there_is_not_is_refused():
    with pytest.raises(MetierError, match="no learning-rate policy 'TRI3'"):
        rates("TRI3", 1)


def test_schedules_of_one_fall():
    assert [step.rate(x) for x in (0.4, 0.5, 0.99)] == pytest.approx([1, 0.1, 0.1])
    assert [step.rate(x, part=0.5, at=[0.6, 0.9]) for x in (0.1, 0.6, 0.95)] == pytest.approx([1, 0.5, 0.25])
    assert [exponential.rate(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.1, 0.01])
    assert [inverse.rate(x, speed=8) for x in (0, 1)] == pytest.approx([1, 1 / 3])
    assert [polynomial.rate(x, floor=0.2) for x in (0, 0.5, 1)] == pytest.approx([1, 0.4, 0.2])
    assert [sigmoid.rate(x, steep=10) for x in (0.4, 0.5)] == pytest.approx([1 / (1 + 2.718281828459045**-1), 0.5])
    assert sigmoid.rate(0.0, steep=1e6) == 1 and sigmoid.rate(1.0, steep=1e6) == 0


RESTARTS = method("train.schedule", "rate", "restart", period=0.5, height="halved")


def run(toy, folder, **changes):
    def sgd(groups, *, lr=0.1):
        return torch.optim.SGD(groups, lr=lr)

    given = {"steps": 9, "batch": 8, "length": 32, "optimizer": sgd, "parameters": "full"} | changes
    return Run(toy, maker.texts(40), Setup(**given, work=Work(folder)), examples.packed, "test")


@pytest.mark.parametrize("micro_tokens", [4000, 64])
def test_a_training_has_the_rate_of_the_policy_in_every_step_and_after_a_kill(toy, tmp_path, micro_tokens):
    """A scheduler that steps with every micro-batch would run ahead; one with a state of its own would begin anew."""
    first = run(toy, tmp_path, schedule=RESTARTS, micro_tokens=micro_tokens)
    assert (len(first.feed.cut(first.plan[0])) >= 4) == (micro_tokens == 64)
    steps = [first.step() for _ in range(4)]
    first.save()
    again = run(toy, tmp_path, schedule=RESTARTS, micro_tokens=micro_tokens)
    again.resume()
    steps += [again.step() for _ in range(5)]
    knobs = Knobs(low=0.0, high=0.1, length=5)  # of 10: neither end is wasted on a step that does not move
    assert [row["lr"] for row in steps] == pytest.approx([value("COSRSW2", i, knobs) for i in range(1, 10)])


def test_in_torch_s_own_scheduler_they_are_the_same(toy):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: value("TRI2", i, KNOBS) / 0.5)
    for i in range(45):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates("TRI2", i)[0])
        optimizer.step()
        scheduler.step()
        if i == 20:
            state = scheduler.state_dict()
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: value("TRI2", i, KNOBS) / 0.5)
            scheduler.load_state_dict(state)
            optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]


@pytest.mark.parametrize("name", ["step", "exponential", "inverse", "polynomial", "sigmoid", "cycle", "restart"])
def test_a_card_names_its_policies(name):
    import importlib

    words = importlib.import_module(f"metier.train.schedule.{name}").__doc__ or ""
    assert re.search(r"^Paper: 112 \(its polic", words, re.MULTILINE)
