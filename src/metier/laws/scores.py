"""Laws of scores: one for each that was asked about, whatever their order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from metier.artefacts import Records
from metier.laws.case import Case
from metier.store import Work


def one_score_or_reason_each(case: Case, folder: Path) -> None:
    inputs = case.inputs(Work(folder))
    rows = list(case.function(**inputs))
    wanted = _names(inputs)
    assert [r["id"] for r in rows] == wanted, "not one row for each, in their order"
    for row in rows:
        assert (row["score"] is None) != (row["reason"] is None), f"{row['id']}: a score or a reason, not both"
        assert row["score"] is None or math.isfinite(row["score"]), f"{row['id']}: {row['score']}"


def their_order_does_not_matter(case: Case, folder: Path) -> None:
    inputs = case.inputs(Work(folder / "one"))
    turned = {k: _turned(v) for k, v in case.inputs(Work(folder / "two")).items()}
    one, two = ({r["id"]: (r["score"], r["reason"]) for r in case.function(**given)} for given in (inputs, turned))
    assert one.keys() == two.keys()
    for name, (score, reason) in one.items():
        other, why = two[name]
        same = score == other if score is None or other is None else math.isclose(score, other, rel_tol=1e-6)
        assert same and reason == why, f"{name}: {score or reason} became {other or why}"


def _names(inputs: dict[str, Any]) -> list[str]:
    if "sources" in inputs:
        return list(inputs["sources"])
    data: Records = inputs["data"]
    return data.column("id")


def _turned(value: Any) -> Any:
    if isinstance(value, Records):
        return value.take(list(range(len(value)))[::-1])
    if isinstance(value, dict):
        return dict(reversed([(k, _turned(v)) for k, v in value.items()]))
    return value
