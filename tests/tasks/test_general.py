"""The suite: margins, chances, sizes, and which measures are judged together."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from metier.evaluate._ask import asked
from metier.options import MetierError
from metier.tasks import general


def test_the_suite_has_its_measures_margins_and_sizes() -> None:
    task = general.make(choice=None, prose=None, arithmetic=500, grammar=500)
    rows = asked(task)
    sizes = {"bits_per_byte": 120, "choice": 689, "arithmetic": 500, "grammar": 500}
    assert {m: len(r) for m, r in rows.items() if m != "form"} == sizes
    margins = {"bits_per_byte": 0.02, "choice": 0.03, "arithmetic": 0.03, "grammar": 0.03, "form": None, "stops": None}
    assert {n: m.margin for n, m in task.measures.items()} == margins
    assert {n for n, m in task.measures.items() if m.pool} == {"choice", "arithmetic", "grammar"}
    assert task.measures["arithmetic"].chance == 0.25
    assert task.measures["grammar"].chance == 0.5
    assert all(0 <= r["gold"] < len(r["choices"]) for m in ("choice", "arithmetic", "grammar") for r in rows[m])


def test_the_pool_has_rows_enough_to_be_judged() -> None:
    rows = asked(general.make())
    assert sum(len(rows[m]) for m in ("choice", "arithmetic", "grammar")) >= 500


def test_same_seed_same_task_and_a_sample_is_a_part() -> None:
    assert general.make(choice=50).digest == general.make(choice=50).digest
    assert general.make(choice=50, seed=1).digest != general.make(choice=50).digest
    ids = {r["id"] for r in asked(general.make(choice=None))["choice"]}
    assert {r["id"] for r in asked(general.make(choice=50))["choice"]} < ids


def test_parts_can_be_left_out_and_too_many_are_an_error() -> None:
    task = general.make(choice=10, prose=5, arithmetic=0, grammar=0, forms=0)
    assert set(task.measures) == {"bits_per_byte", "choice"}
    with pytest.raises(MetierError, match="'prose' must be at most 120, got 121"):
        general.make(prose=121)


def test_forms_are_graded() -> None:
    task = general.make(choice=1, prose=1, arithmetic=0, grammar=0, forms=6)
    rows = [r for r in asked(task)["form"] if json.loads(r["check"])["name"] == "number"]
    good, bad = SimpleNamespace(text="7", finish="stop"), SimpleNamespace(text="about seven", finish="length")
    assert task.grade(rows, [good]) == [{"stops": 1, "form": 1}]
    assert task.grade(rows, [bad]) == [{"stops": 0, "form": 0}]
