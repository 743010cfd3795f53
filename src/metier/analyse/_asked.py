"""The rows of evaluation reports by measure, and pools of measures as measures of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from metier import stats
from metier.artefacts import Report, Row
from metier.options import MetierError

TOGETHER = "All of these skills together, each with the same weight."


@dataclasses.dataclass(frozen=True)
class Asked:
    """One measure: how it was asked (a Measure as a dict), notes of its task, and the rows of every chat by id."""

    task: str
    name: str
    how: dict[str, Any]
    notes: dict[str, Any]
    rows: dict[str, dict[str, Row]]
    members: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        return 1 if self.how["better"] == "higher" else -1

    def total(self, chat: str | None) -> float | None:
        """Σ value / Σ weight; None for a chat that was not asked."""
        if chat is None or chat not in self.rows:
            return None
        rows = self.rows[chat].values()
        return float(sum(r["value"] for r in rows) / sum(r["weight"] for r in rows))

    def better(self, before: str, after: str) -> stats.Change:
        """The change of the total from one chat to another, counted so that more is better.

        Raises MetierError when the two did not answer the same rows.
        """
        first, second = self.rows[before], self.rows[after]
        if first.keys() != second.keys():
            raise MetierError(f"analyse: '{before}' and '{after}' answered different rows of {self.task}.{self.name}")
        return stats.paired(
            [self.sign * (second[i]["value"] - row["value"]) for i, row in first.items()],
            [row["weight"] for row in first.values()],
            [row["cluster"] for row in first.values()],
            binary=self.how["ask"] == "choose",
        )


def gather(reports: Sequence[Report]) -> list[Asked]:
    """The measures of all reports in the order of their tasks; after a task's own measures its pools."""
    tasks: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, facts in report.part("tasks").items():
            if tasks.setdefault(name, facts) != facts:
                raise MetierError(f"analyse: the reports were made with different tasks called '{name}'")
    rows: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in pa.concat_tables([report.rows for report in reports]).to_pylist():
        rows.setdefault((row["task"], row["measure"]), {}).setdefault(row["chat"], {})[row["id"]] = row
    found = []
    for task, facts in tasks.items():
        known = [(name, how) for name, how in facts["measures"].items() if (task, name) in rows]
        own = [Asked(task, name, how, facts["notes"], rows[task, name]) for name, how in known]
        found += own + pools(own)
    return found


def pools(measures: Sequence[Asked]) -> list[Asked]:
    """Measures of one pool as one: a row weighs 1 / rows of its measure, so that every member counts the same."""
    by_name: dict[str, list[Asked]] = {}
    for measure in measures:
        if measure.how["pool"]:
            by_name.setdefault(measure.how["pool"], []).append(measure)
    found = []
    for name, members in by_name.items():
        first = members[0]
        chats = [chat for chat in first.rows if all(chat in m.rows for m in members)]
        how = first.how | {
            "title": name, "words": TOGETHER, "margin": min(m.how["margin"] for m in members),
            "chance": sum(m.how["chance"] for m in members) / len(members),
        }  # fmt: skip
        rows = {chat: {i: row for m in members for i, row in _reweighted(m, chat)} for chat in chats}
        found.append(Asked(first.task, name, how, first.notes, rows, tuple(m.how["title"] for m in members)))
    return found


def _reweighted(measure: Asked, chat: str) -> list[tuple[str, Row]]:
    total = sum(row["weight"] for row in measure.rows[chat].values())
    return [
        (f"{measure.name}/{i}", row | {"value": row["value"] / total, "weight": row["weight"] / total,
                                       "cluster": f"{measure.name}/{row['cluster']}"})
        for i, row in measure.rows[chat].items()
    ]  # fmt: skip
