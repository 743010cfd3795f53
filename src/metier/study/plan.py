"""A study whose every cell is bound: arms at grid points with seeds, claims, and what their reports need."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.artefacts import Report
from metier.calls import Call, references
from metier.catalogue import Method

COSTS = {  # of a run: ``cost.name`` → title and unit
    "seconds": ("time of a run alone", "seconds"), "own_seconds": ("own time of a run", "seconds"),
    "tokens_trained": ("tokens trained on", "tokens"), "parameters_trained": ("weights trained", "weights"),
}  # fmt: skip

CALIBRATION = {"ece": "calibration error", "brier": "Brier score"}  # numbers of `evaluate.choice`; less is better


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run: an arm at a grid point with a seed, as the calls that its reports need."""

    arm: str
    point: Mapping[str, Any]
    seed: int | None
    calls: list[Call]

    @property
    def place(self) -> str:
        """The grid point in words, each value under the shortest name that is clear."""
        last = [path.rpartition(".")[2] for path in self.point]
        names = [short if last.count(short) == 1 else path for short, path in zip(last, self.point, strict=True)]
        return ", ".join(f"{n}={_word(v)}" for n, v in zip(names, self.point.values(), strict=True))

    def lies(self, at: Mapping[str, Any]) -> bool:
        """Whether it is in this part of the grid."""
        return all(self.point[path] == value for path, value in at.items())

    @property
    def label(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        return ", ".join(part for part in (self.arm, self.place, seed) if part)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed, and the method of `analyse` that judges it."""

    line: int
    says: str
    method: Method
    options: Mapping[str, Any]
    at: Mapping[str, Any]

    @property
    def metrics(self) -> list[str]:
        metric = self.options.get("metric", [])
        return [metric] if isinstance(metric, str) else list(metric)

    def about(self, cell: Cell) -> bool:
        """Whether the claim speaks of this cell."""
        arms = self.options.get("arms")
        named = arms is None or cell.arm in (*arms, self.options.get("minus"), self.options.get("start"))
        return named and cell.lies(self.at)


@dataclasses.dataclass(frozen=True)
class Study:
    """All that `read` found out."""

    path: Path
    title: str
    about: str
    papers: list[int]
    arms: Mapping[str, Mapping[str, Any]]
    grid: Mapping[str, list[Any]]
    seeds: list[int]
    reports: list[str]
    chat: str | None
    claims: list[Claim]
    pareto: Mapping[str, Any]
    reference: str
    cells: list[Cell]

    @property
    def metrics(self) -> list[str]:
        """What claims and picture name."""
        return list(dict.fromkeys([m for c in self.claims for m in c.metrics]
                                  + [self.pareto[k] for k in ("x", "y") if k in self.pareto]))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a cell. ``steps`` are those that were finished, by key: method and seconds."""

    cell: Cell
    reports: Mapping[str, Report]
    keys: Mapping[str, str]
    steps: Mapping[str, tuple[str, float]]
    cost: Mapping[str, float]
    error: str | None


def needed(calls: Sequence[Call], targets: Sequence[str]) -> list[Call]:
    """The targets and every step they refer to, in the order of the recipe."""
    names = set(targets)
    for call in reversed(calls):
        if call.name in names:
            names |= {r.name for r in references(call.arguments)}
    return [call for call in calls if call.name in names]


def _word(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        return _word(value[0])
    if isinstance(value, dict):
        return str(value.get("use") or json.dumps(value))
    return json.dumps(value) if isinstance(value, list | bool) or value is None else str(value)
