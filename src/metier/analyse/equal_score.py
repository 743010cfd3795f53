"""What arms have cost elsewhere by the time all have learnt the same.

For studies with a grid over the length of training, where arms learn at different speeds: at equal steps the slow one
always seems to forget less. Every arm's curve runs from the untrained model through its runs in the order of the grid;
it is read where the gain in `equal` is that of the arm (and seed) that gets least far, between two runs along a
straight line. What is compared there is `metric`, on the same rows, as in `analyse.differences`.

    t = (G − gainₖ) / (gainₖ₊₁ − gainₖ),  value of a row = (1 − t)·valueₖ + t·valueₖ₊₁,
    G = the least over arms (all, or the two compared) and seeds of the largest gain

One level for all ranks them beside each other; but an arm that has learnt little then asks early of all the others. A
level for each pair asks the other where the lesser of the two ends.

Where the curve crosses G is found for every seed by itself, so the interval holds what seeds vary in it; that the score
itself is an estimate over rows is not in it.

Numbers: verdict, holds, comparisons as in `analyse.differences`, each with its ``level`` (G, counted so that more is
better).

Options:
    metric: the measure that is compared, as ``task.measure``; one or several.
    equal: the measure in which all have gained the same.
    start: the arm that was not trained, where every curve begins.
    minus: the arm that is compared with; `start` tells the whole cost.
    holds: what is claimed of the difference, such as ``< 0``.
    arms: the arms the claim is about; all others when not given.
    level: whether *all* are read at one level, or each *pair* at its own.
Raises: MetierError for an unknown metric or arm, or when an arm has gained nothing.
Differs: from comparisons at equal steps, which this does not replace: give both.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from metier import stats
from metier.analyse._asked import Asked
from metier.analyse._condition import Comparison, parse
from metier.analyse._runs import Runs, arrange, difference, known
from metier.analyse.differences import ALPHA, told, verdict
from metier.artefacts import Report
from metier.options import MetierError

NAME = "analyse.equal_score"
EXAMPLE = {
    "metric": "toy.bits_per_byte", "equal": "toy.bits_per_byte", "start": "base", "minus": "base", "holds": "< 0"
}  # fmt: skip
Curve = list[Asked]  # of an arm and a seed, the start first


def analyse(
    reports: list[Report], *, metric: str | list[str], equal: str, start: str, minus: str, holds: Comparison,
    arms: list[str] | None = None, level: Literal["all", "pair"] = "all",
) -> Report:  # fmt: skip
    runs = arrange(reports)
    metrics = [metric] if isinstance(metric, str) else metric
    chats = known(NAME, runs, [*metrics, equal], [start, minus, *(arms or [])])
    others = [a for a in arms or chats if a not in (minus, start)]
    moving = [*others, *([minus] if minus != start else [])]
    seeds = list(dict.fromkeys(seed for found in runs.values() for seed in found))
    gains = {(arm, seed): _gains(_curve(runs, seed, equal, arm, start)) for arm in moving for seed in seeds}
    gains = {place: found for place, found in gains.items() if len(found) > 1}
    for (arm, seed), gained in gains.items():
        if max(gained) <= 0:
            raise MetierError(f"{NAME}: '{arm}' (seed {seed}) has gained nothing in {equal}, so nothing can be equal")
    condition = parse(holds)
    found = []
    for together in [others] if level == "all" else [[arm] for arm in others]:
        asked = {place: found for place, found in gains.items() if place[0] in (*together, minus)}
        goal, read = _read(runs, metrics, equal, start, asked)
        for at, seeds_read in read.items():
            pairs = [difference(seeds_read, name, arm, minus, at) for name in metrics for arm in together]
            found += [(d, told(d, read) | {"level": goal}) for d in pairs if d]
    p = stats.holm([condition.p(d.change) for d, _ in found])
    comparisons = [
        row | {"p": round(q, 6), "verdict": condition.judge(d.change, q, ALPHA)}
        for (d, row), q in zip(found, p, strict=True)
    ]
    return Report({"verdict": verdict([c["verdict"] for c in comparisons]), "holds": holds, "comparisons": comparisons})


def crossing(gains: Sequence[float], goal: float) -> tuple[int, float]:
    """(k, t): the curve first reaches ``goal`` at k + t, along a straight line from point k to point k + 1."""
    for k, (before, after) in enumerate(itertools.pairwise(gains)):
        if before <= goal <= after:
            return k, (goal - before) / (after - before) if after > before else 0.0
    raise ValueError(f"no part of {gains} reaches {goal}")


def _curve(runs: Runs, seed: str, metric: str, arm: str, start: str) -> Curve:
    """The measure at every point of the grid at which the arm ran, the start before them."""
    found = [run[seed][metric] for run in runs.values() if metric in run.get(seed, {})]
    own = [dataclasses.replace(a, rows={arm: a.rows[arm]}) for a in found if arm in a.rows]
    begins = next((a.rows[start] for a in found if start in a.rows), None)
    if begins is None or not own:
        return []
    return [dataclasses.replace(own[0], rows={arm: begins}), *own]


def _gains(curve: Curve) -> list[float]:
    totals = [a.total(next(iter(a.rows))) or 0.0 for a in curve]
    return [curve[0].sign * (total - totals[0]) for total in totals] if curve else []


def _read(
    runs: Runs, metrics: Sequence[str], equal: str, start: str, gains: Mapping[tuple[str, str], list[float]]
) -> tuple[float, Runs]:  # fmt: skip
    """The level that all of these arms and seeds reach, and the measures as every arm has them there."""
    goal = min(max(found) for found in gains.values())
    at = f"{equal} {'+' if goal > 0 else ''}{goal:.4g}"
    read: Runs = {at: {}}
    for seed in dict.fromkeys(seed for _, seed in gains):
        places = {arm: crossing(found, goal) for (arm, own), found in gains.items() if own == seed}
        for name in metrics:
            read[at].setdefault(seed, {})[name] = _rows(runs, seed, name, start, places)
    return goal, read


def _rows(runs: Runs, seed: str, metric: str, start: str, places: Mapping[str, tuple[int, float]]) -> Asked:
    """The measure as every arm has it where its curve is read; the start as it is."""
    rows = {}
    for arm, (k, t) in places.items():
        curve = _curve(runs, seed, metric, arm, start)
        one, two = curve[k].rows[arm], curve[k + 1].rows[arm]
        if one.keys() != two.keys():
            raise MetierError(f"{NAME}: '{arm}' answered different rows of {metric} along its curve")
        rows[arm] = {i: row | {"value": (1 - t) * row["value"] + t * two[i]["value"]} for i, row in one.items()}
        rows[start] = curve[0].rows[arm]
    return dataclasses.replace(curve[0], rows=rows)
