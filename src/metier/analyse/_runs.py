"""Arms compared run by run: a run is a grid point and a seed of a study; a plain recipe is one run.

Rows of a study's reports have two columns more, `point` and `seed`, and `chat` is the arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import t as student

from metier import stats
from metier.analyse._asked import Asked, gather
from metier.artefacts import Report
from metier.options import unknown
from metier.stats import Change

Runs = dict[str, dict[str, dict[str, Asked]]]  # point → seed → "task.measure" → what was asked


@dataclasses.dataclass(frozen=True)
class Difference:
    """arm − minus in the measure's unit, at one grid point, over all seeds that have both."""

    metric: str
    arm: str
    minus: str
    point: str
    change: Change
    seeds: int


def arrange(reports: Sequence[Report]) -> Runs:
    """The measures (and their pools) of all reports, by grid point and seed."""
    parts: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        for run, rows in _parts(report.rows):
            parts.setdefault(run, []).append(Report(report.numbers, rows))
    runs: Runs = {}
    for (point, seed), found in parts.items():
        runs.setdefault(point, {})[seed] = {f"{a.task}.{a.name}": a for a in gather(found)}
    return runs


def known(owner: str, runs: Runs, metrics: Sequence[str], arms: Sequence[str]) -> list[str]:
    """All arms. Raises MetierError when a metric or an arm that is named is none of them."""
    asked = [(name, a) for seeds in runs.values() for found in seeds.values() for name, a in found.items()]
    chats = list(dict.fromkeys(chat for _, a in asked for chat in a.rows))
    for name in metrics:
        if name not in {n for n, _ in asked}:
            raise unknown(owner, name, {n for n, _ in asked}, "metric")
    for arm in arms:
        if arm not in chats:
            raise unknown(owner, arm, chats, "arm")
    return chats


def difference(
    seeds: Mapping[str, Mapping[str, Asked]], metric: str, arm: str, minus: str, point: str = ""
) -> Difference | None:
    """None when no seed has both. Raises MetierError when the two answered different rows.

    Where all seeds were asked the same rows, the interval is over rows and over seeds; else, and for a measure that is
    one number a run, it is over seeds alone. Under five clusters of rows nothing is known.
    """
    asked = [known[metric] for known in seeds.values() if metric in known]
    both = [a for a in asked if arm in a.rows and minus in a.rows]
    if not both:
        return None
    change = over_seeds = stats.paired([a.better(minus, arm).change for a in both], [1.0] * len(both), range(len(both)))
    rows = both[0].rows[arm]
    if len(rows) > 1 and all(a.rows[arm].keys() == rows.keys() for a in both):
        over_rows = _mean(both, (minus, arm)).better(minus, arm)
        change = crossed(over_rows, over_seeds) if over_rows.clusters >= stats.FEWEST_CLUSTERS else _unknown(over_rows)
    return Difference(metric, arm, minus, point, change if both[0].sign > 0 else _turned(change), len(both))


def crossed(rows: Change, seeds: Change) -> Change:
    """One interval for two crossed samples, test rows and seeds: their variances add up.

    What rows and seeds vary together is in both terms, and 1 / freedom is the mean of both weighted by variance, where
    Satterthwaite's takes squares: with two or three seeds that one falls short (the tests simulate the coverage).
    """
    one, two = rows.error**2, seeds.error**2
    if not math.isfinite(one + two) or one + two == 0:
        return rows
    freedom = (one + two) / (one / rows.freedom + two / seeds.freedom)
    error = math.sqrt(one + two)
    reach = float(student.ppf((1 + stats.LEVEL) / 2, freedom)) * error
    return dataclasses.replace(rows, low=rows.centre - reach, high=rows.centre + reach, error=error, freedom=freedom)


def level(seeds: Mapping[str, Mapping[str, Asked]], metric: str, arm: str) -> float | None:
    """The mean of the arm's totals over seeds."""
    found = [t for known in seeds.values() if metric in known and (t := known[metric].total(arm)) is not None]
    return sum(found) / len(found) if found else None


def _mean(asked: Sequence[Asked], chats: Sequence[str]) -> Asked:
    """The same rows with the mean of their values over runs."""
    rows = {
        chat: {i: row | {"value": sum(a.rows[chat][i]["value"] for a in asked) / len(asked)}
               for i, row in asked[0].rows[chat].items()}
        for chat in chats
    }  # fmt: skip
    return dataclasses.replace(asked[0], rows=rows)


def _unknown(change: Change) -> Change:
    return dataclasses.replace(change, low=-math.inf, high=math.inf, error=math.inf)


def _turned(change: Change) -> Change:
    """The other way round: of −1 times the differences."""
    return dataclasses.replace(
        change, change=-change.change + 0.0, low=-change.high, high=-change.low, centre=-change.centre
    )


def _parts(rows: pa.Table) -> list[tuple[tuple[str, str], pa.Table]]:
    if "point" not in rows.column_names:
        return [(("", ""), rows)]
    runs = rows.select(["point", "seed"]).group_by(["point", "seed"], use_threads=False).aggregate([]).to_pylist()
    return [
        ((run["point"], run["seed"]),
         rows.filter(pc.and_(pc.equal(rows["point"], run["point"]), pc.equal(rows["seed"], run["seed"]))))
        for run in runs
    ]  # fmt: skip
