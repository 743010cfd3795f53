"""plan: what is still to be measured is counted, not guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metier import recipe, road
from metier.artefacts import Model, Records, Report
from metier.laws import toy as maker
from metier.options import MetierError
from metier.steps import plan
from metier.store import Work
from metier.train.setup import Setup

MEASURED = [Report({"cost": {"seconds": s}}) for s in (10.0, 100.0)]


def planned(model: Model, folder: Path, **options: Any) -> dict[str, Any]:
    work = Work(folder)
    data: Records = maker.texts(24)
    setup = Setup(step_tokens=64, dev=maker.texts(4, seed=1), work=work)
    plan.run(model, data, MEASURED, setup, rates=[1e-3], trial=1, work=work, **options)
    return next(row for row in work.rows() if row["event"] == "plan")


def test_time_for_measuring_is_the_seconds_of_each_report_times_its_repeats(toy: Model, tmp_path: Path) -> None:
    once, more = (planned(toy, tmp_path / n, **o) for n, o in (("a", {}), ("b", {"repeats": [2, 0.5]})))
    assert once["seconds_for_evaluation"] == 110 and more["seconds_for_evaluation"] == 2 * 10 + 0.5 * 100
    rich, poor = (planned(toy, tmp_path / str(b), budget=b) for b in (1000.0, 115.0))
    assert rich["affordable"] > 0 > poor["affordable"]  # 110 of 115 s are for measuring, 20 more are kept
    with pytest.raises(MetierError, match=r"^plan: 'repeats' must be 2 numbers, one for each of 'measured', got \[1"):
        planned(toy, tmp_path / "c", repeats=[1])


def test_the_ready_recipe_counts_what_is_measured_again() -> None:
    steps = recipe.parse(recipe.text_of(road.RECIPES / "adapt.yaml"))
    at = next(i for i, step in enumerate(steps) if step.use == "plan")
    given = {step.name: step.given for step in steps}
    # a wrap shows the model longer prompts, so what it takes cannot be foreseen from the bare model: it comes before
    assert all("passages" not in step.given.get("chats", {}) for step in steps[at:])
    again = [step.given for step in steps[at:] if step.use == "evaluate.compare"]
    for name, times in zip(given["plan"]["measured"], given["plan"]["repeats"], strict=True):
        before = given[name.removeprefix("$")]
        covers = [a for a in again if a["tasks"] == before["tasks"]
                  and ("only" not in a or set(before.get("only", ["all"])) <= set(a["only"]))]  # fmt: skip
        assert len(covers) == times, name
