"""Laws of evaluation: every row is asked once of every chat, and a second look finds the same."""

from __future__ import annotations

from pathlib import Path

from metier.laws.case import Case
from metier.store import Work


def every_chat_is_asked_the_same_rows(case: Case, folder: Path) -> None:
    report = case.run(folder)
    asked: dict[str, set[tuple[str, str]]] = {}
    for row in report.rows.to_pylist():
        asked.setdefault(row["chat"], set()).add((row["measure"], row["id"]))
    assert asked and len({frozenset(rows) for rows in asked.values()}) == 1, "not the same rows for every chat"


def what_was_measured_before_a_kill_is_not_asked_again(case: Case, folder: Path) -> None:
    first = case.run(folder)
    before = [row for row in Work(folder).rows() if row.get("event") == "measured"]
    again = case.run(folder)
    after = [row for row in Work(folder).rows() if row.get("event") == "measured"]
    assert again.digest == first.digest
    assert len(after) == len(before), "asked again"
