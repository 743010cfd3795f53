"""Laws of tasks: every row can be asked, and who knows the answers gets them right."""

from __future__ import annotations

from pathlib import Path

from metier.artefacts import Task
from metier.laws.case import Case


def every_row_can_be_asked(case: Case, folder: Path) -> None:
    task: Task = case.run(folder)
    asked = [r for r in task.records if r.get("measure")]
    assert asked, "it asks nothing"
    for row in asked:
        how = task.measures[row["measure"]]
        assert row["cluster"], f"{row['id']} has no cluster"
        if how.ask == "choose":
            assert 0 <= row["gold"] < len(row["choices"]) > 1, f"{row['id']}: gold {row['gold']} of {row['choices']}"
            assert len(set(row["choices"])) == len(row["choices"]), f"{row['id']}: a choice stands twice"
        if how.ask == "read":
            assert row["text"], f"{row['id']} has nothing to read"


def train_and_test_share_no_record(case: Case, folder: Path) -> None:
    task: Task = case.run(folder)
    splits: dict[str, set[str]] = {}
    for row in task.records:
        splits.setdefault(str(row.get("split")), set()).add(row["id"])
    names = list(splits)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            assert not splits[one] & splits[two], f"{one} and {two} share records"
