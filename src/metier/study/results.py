"""What the cells of a study say: claims judged, arms beside each other, the front, cost. All numbers of the page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

import metier
from metier import catalogue, publish
from metier.analyse._asked import Asked
from metier.analyse._runs import Runs, arrange, difference, level
from metier.analyse.differences import verdict
from metier.artefacts import Measure, Report
from metier.options import MetierError
from metier.study.plan import CALIBRATION, COSTS, Claim, Ran, Study

COLUMNS = ("task", "measure", "chat", "id", "cluster", "value", "weight")
TEXTS = ("prompt", "gold", "reply")
APART = ("tasks", "totals", "cost")  # of a report's numbers: told elsewhere


def facts(study: Study, ran: Sequence[Ran]) -> dict[str, Any]:
    """``results.json``: equal on every run but for seconds and dates."""
    costs = _costs(ran)
    told = [(r, _reports(study, r, cost)) for r, cost in zip(ran, costs, strict=True)]
    runs = arrange([report for _, reports in told for report in reports])
    asked = {name: a for seeds in runs.values() for known in seeds.values() for name, a in known.items()}
    claims = [_claim(study, claim, told) for claim in study.claims]
    arms = _arms(study, ran, runs, asked, costs)
    return {
        "metier": metier.__version__,
        "title": study.title,
        "about": study.about,
        "paper": study.papers,
        "verdict": verdict([c["verdict"] for c in claims]) if claims else None,
        "claims": claims,
        "measures": {name: _measure(a) for name, a in asked.items()},
        "reference": study.reference,
        "arms": arms,
        "pareto": _pareto(study, asked, arms),
        "failed": [{"cell": r.cell.label, "error": r.error} for r in ran if r.error],
        "changes": {arm: dict(changes) for arm, changes in study.arms.items()},
        "grid": dict(study.grid),
        "seeds": study.seeds,
        "cells": [
            {"arm": r.cell.arm, "point": dict(r.cell.point), "seed": r.cell.seed, "error": r.error,
             "measures": _levels(r, reports), "numbers": dict(scalars(r)), "keys": dict(r.keys), "cost": cost}
            for (r, reports), cost in zip(told, costs, strict=True)
        ],
        "cost": _whole_cost(ran),
        "command": f"metier study {study.path.name if study.path.is_absolute() else study.path.as_posix()}",
        "provenance": publish.provenance(),
    }  # fmt: skip


def scalars(ran: Ran) -> Iterator[tuple[str, float]]:
    """Every number of the reports by ``step.path``."""
    for name, report in ran.reports.items():
        yield from _flat(name, {k: v for k, v in report.numbers.items() if k not in APART})


def _reports(study: Study, ran: Ran, cost: Mapping[str, float]) -> list[Report]:
    """The cell's reports with the arm for a chat, and its grid point and seed beside every row."""
    run = (ran.cell.place, "" if ran.cell.seed is None else str(ran.cell.seed))
    found = []
    for report in ran.reports.values():
        rows = report.rows
        if "tasks" in report.numbers and set(COLUMNS) <= set(rows.column_names):
            if study.chat is not None:
                rows = rows.filter(pc.equal(rows["chat"], study.chat))
            columns = {name: rows[name] for name in (*COLUMNS, *TEXTS) if name in rows.column_names}
            found.append(_marked(report.numbers["tasks"], columns | {"chat": [ran.cell.arm] * len(rows)}, run))
    if ran.error is None:
        numbers = dict(scalars(ran)) | {f"cost.{k}": v for k, v in cost.items()}
        for metric in study.metrics:
            if metric in numbers:
                found.append(_number(metric, numbers[metric], ran.cell.arm, run))
    return found


def _number(metric: str, value: float, arm: str, run: tuple[str, str]) -> Report:
    """A number of a run as a measure with one row."""
    task, _, name = metric.partition(".")
    number = metric.rpartition(".")[2]
    title, unit = COSTS[name] if task == "cost" else (CALIBRATION.get(number, metric), "")
    better: Literal["lower", "higher"] = "lower" if task == "cost" or number in CALIBRATION else "higher"
    how = dataclasses.asdict(Measure("read", "domain", unit, better, title, ""))
    row = {
        "task": task,
        "measure": name,
        "chat": arm,
        "id": name,
        "cluster": name,
        "value": float(value),
        "weight": 1.0,
    }
    return _marked({task: {"measures": {name: how}, "notes": {}}}, {k: [v] for k, v in row.items()}, run)


def _marked(tasks: Mapping[str, Any], columns: Mapping[str, Any], run: tuple[str, str]) -> Report:
    size = len(columns["id"])
    columns = dict.fromkeys(TEXTS, [""] * size) | dict(columns)
    return Report({"tasks": tasks}, pa.table({**columns, "point": [run[0]] * size, "seed": [run[1]] * size}))


def _claim(study: Study, claim: Claim, told: Sequence[tuple[Ran, list[Report]]]) -> dict[str, Any]:
    """The claim's verdict. A claim some of whose cells are missing holds in part at most."""
    about = [(r, reports) for r, reports in told if claim.about(r.cell)]
    missing = [f"{r.cell.label} failed" for r, _ in about if r.error]
    found: dict[str, Any] = {}
    try:
        given = [report for _, reports in about for report in reports]
        found = (
            catalogue.load(claim.method)(given, **claim.options).numbers if given else {"verdict": "not testable here"}
        )
        if "verdict" not in found:
            raise MetierError(f"{claim.method.name}: gives no verdict")
    except MetierError as error:
        found = {"verdict": "not testable here"}
        missing.append(str(error))
    if missing and found["verdict"] == "holds":
        found = found | {"verdict": "holds in part"}
    return {"says": claim.says, "use": claim.method.name, "options": dict(claim.options), "at": dict(claim.at),
            "comparisons": [], **found, "missing": missing}  # fmt: skip


def _arms(
    study: Study, ran: Sequence[Ran], runs: Runs, asked: Mapping[str, Asked], costs: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:  # fmt: skip
    """Every arm at every grid point: levels, and changes from the reference arm at the same point."""
    groups: dict[tuple[str, str], list[tuple[Ran, Mapping[str, float]]]] = {}
    for r, cost in zip(ran, costs, strict=True):
        groups.setdefault((r.cell.arm, r.cell.place), []).append((r, cost))
    found = []
    for (arm, place), cells in groups.items():
        whole = [cost for r, cost in cells if r.error is None]
        values = {}
        for name in asked:
            at = level(runs.get(place, {}), name, arm)
            if at is not None:
                values[name] = {"level": at, **_change(runs, name, arm, study.reference, place)}
        found.append({
            "arm": arm, "point": place, "seeds": len(whole), "failed": len(cells) - len(whole), "values": values,
            "own_seconds": round(sum(c["own_seconds"] for c in whole) / len(whole), 3) if whole else None,
            "tokens_trained": max((c["tokens_trained"] for c in whole), default=0),
            "parameters_trained": max((c["parameters_trained"] for c in whole), default=0),
        })  # fmt: skip
    return found


def _change(runs: Runs, metric: str, arm: str, reference: str, place: str) -> dict[str, float | None]:
    if arm == reference:
        return {"change": 0.0, "low": 0.0, "high": 0.0}
    try:
        found = difference(runs[place], metric, arm, reference, place)
    except MetierError:  # asked different rows: levels may be read, differences not
        found = None
    if found is None:
        return {"change": None, "low": None, "high": None}
    low, high = (x if math.isfinite(x) else None for x in (found.change.low, found.change.high))
    return {"change": found.change.change, "low": low, "high": high}


def _pareto(study: Study, asked: Mapping[str, Asked], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Two measures, and which arms no other one beats in both; the first of each kind where the study names none."""
    first = {
        kind: next((n for n, a in asked.items() if a.how["kind"] == kind), None) for kind in ("retention", "domain")
    }
    x, y = study.pareto.get("x") or first["retention"], study.pareto.get("y") or first["domain"]
    if x is None or y is None or x == y or not {x, y} <= set(asked):
        return None
    places = {cell.place for cell in study.cells if cell.lies(study.pareto.get("at") or {})}
    points = [(i, tuple(asked[m].sign * arm["values"][m]["change"] for m in (x, y))) for i, arm in enumerate(arms)
              if arm["point"] in places
              and all(arm["values"].get(m, {}).get("change") is not None for m in (x, y))]  # fmt: skip
    beaten = {i for i, p in points for _, q in points if q != p and q[0] >= p[0] and q[1] >= p[1]}
    return {"x": x, "y": y, "front": [i for i, _ in points if i not in beaten], "shown": [i for i, _ in points]}


def _costs(ran: Sequence[Ran]) -> list[dict[str, float]]:
    """``seconds`` of every cell as if it were alone; ``own_seconds`` without the steps that all cells share."""
    whole = [set(r.steps) for r in ran if r.error is None]
    shared = set.intersection(*whole) if len(whole) > 1 else set()
    return [
        {k: v for k, v in r.cost.items() if k != "peak_memory_bytes"}
        | {"own_seconds": round(sum(s for key, (_, s) in r.steps.items() if key not in shared), 3)}
        for r in ran
    ]  # fmt: skip


def _whole_cost(ran: Sequence[Ran]) -> dict[str, Any]:
    """Every step once."""
    steps = {key: step for r in ran for key, step in r.steps.items()}
    by_method: dict[str, list[float]] = {}
    for use, seconds in steps.values():
        by_method.setdefault(use, []).append(seconds)
    return {
        "seconds": round(sum(s for _, s in steps.values()), 1),
        "alone": round(sum(r.cost["seconds"] for r in ran), 1),
        "steps": len(steps),
        "steps_alone": sum(len(r.steps) for r in ran),
        "peak_memory_bytes": max((r.cost["peak_memory_bytes"] for r in ran), default=0),
        "by_method": {use: {"steps": len(s), "seconds": round(sum(s), 1)} for use, s in by_method.items()},
    }


def _levels(ran: Ran, reports: Sequence[Report]) -> dict[str, Any]:
    known = next(iter(next(iter(arrange(reports).values())).values())) if reports else {}
    return {name: {"value": a.total(ran.cell.arm), "n": len(a.rows[ran.cell.arm])} for name, a in known.items()}


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value


def _measure(a: Asked) -> dict[str, Any]:
    keys = ("title", "unit", "better", "kind", "margin", "words")
    return {k: a.how[k] for k in keys} | ({"members": list(a.members)} if a.members else {})
