"""The best of several models, by what reports have measured of them.

For choosing a strength, a checkpoint or a merge after the reports of `evaluate.compare` over dev rows: name the
candidates as the chats there are named. What is chosen by a test split can no longer be judged on it. Equal ones: the
first.

Options:
    measure: the measure to go by, as ``task.measure``; whether more is better, the task says.
Raises: MetierError when no report has the measure, or a candidate was not asked.
"""

from __future__ import annotations

from typing import Any

from metier.artefacts import Model, Report
from metier.options import MetierError, unknown
from metier.store import Work

EXAMPLE = {"measure": "toy.bits_per_byte"}


def run(candidates: dict[str, Model], reports: list[Report], *, measure: str, work: Work) -> Model:
    values, higher = measured(reports, measure)
    missing = [name for name in candidates if name not in values]
    if missing or not candidates:
        raise MetierError(f"best: no report tells '{measure}' of {', '.join(missing) or 'a candidate'}; "
                          f"they tell it of: {', '.join(values)}")  # fmt: skip
    chosen = (max if higher else min)(candidates, key=values.__getitem__)
    work.log(event="best", chosen=chosen, measure=measure, values={name: values[name] for name in candidates})
    return candidates[chosen]


def measured(reports: list[Report], measure: str) -> tuple[dict[str, float], bool]:
    """The total of each chat, and whether a higher one is better."""
    task, _, name = measure.partition(".")
    values: dict[str, float] = {}
    better, known = set(), set()
    for report in reports:
        facts: dict[str, Any] = report.numbers.get("tasks", {})
        known |= {f"{t}.{m}" for t in facts for m in facts[t]["measures"]}
        if name in facts.get(task, {}).get("measures", {}):
            better.add(facts[task]["measures"][name]["better"])
            for chat, totals in report.numbers["totals"].items():
                if name in totals.get(task, {}):
                    values[chat] = totals[task][name]["value"]
    if not better:
        raise unknown("best", measure, known, "measure")
    return values, better == {"higher"}
