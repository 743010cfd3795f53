"""Slots combine freely: what `metier check` lets through trains, and what it refuses it refuses with a reason."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from metier import catalogue
from metier.artefacts import Model
from metier.laws.case import Bench, Case
from metier.options import MetierError
from metier.store import Work
from metier.train.setup import Setup

ROOMS = {"parameters": "prepare", "objective": "loss", "optimizer": "optimizer", "schedule": "rate"}
LOOPS = ("train.loop.sft", "train.loop.pretrain", "train.loop.head", "train.loop.prefer")
GIVEN = {"steps": 3, "batch": 4, "micro_tokens": 4000, "length": 64, "precision": "fp32"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def drawn(seed: int) -> dict[str, str]:
    """A loop, a method for every slot, and a term or none."""
    draw, methods = random.Random(seed), catalogue.methods().values()
    of = {
        slot: sorted(m.name for m in methods if (m.room, m.verb) == (f"train.{slot}", v)) for slot, v in ROOMS.items()
    }
    terms = sorted(m.name for m in methods if (m.room, m.verb) == ("train.term", "term"))
    return {"loop": draw.choice(LOOPS), "term": draw.choice([*terms, ""]), **{s: draw.choice(of[s]) for s in ROOMS}}


TRAINED: list[int] = []


@pytest.mark.parametrize("seed", range(30))
def test_what_check_lets_through_trains(seed: int, bench: Bench, tmp_path: Path) -> None:
    chosen = drawn(seed)
    cases = {slot: Case(catalogue.find(name), bench) for slot, name in chosen.items() if name}
    slots: dict[str, Any] = {slot: case.bound() for slot, case in cases.items() if slot in ROOMS}
    if "term" in cases:
        slots["terms"] = [cases["term"].bound()]
    if hasattr(cases["optimizer"].file, "backward"):
        slots["max_grad_norm"] = random.Random(seed).choice([0.0, 1.0])
    loop = cases["loop"]
    try:
        Setup.agree(loop.method.name, GIVEN | slots, loop.file)
    except MetierError as refused:
        assert any(str(refused).startswith(f"{name}: ") for name in chosen.values()), refused
        return
    data = bench.preferences if getattr(loop.file, "REPLIES", 1) == 2 else bench.records
    made = loop.function(bench.model, data, Setup(**GIVEN, **slots, work=Work(tmp_path)))
    assert isinstance(made, Model) and made.notes["steps"] == 3 and made.digest != bench.model.digest
    TRAINED.append(seed)


def test_a_third_of_them_trained() -> None:
    """Else the test above would say little: refusing is easy."""
    assert len(TRAINED) >= 10
