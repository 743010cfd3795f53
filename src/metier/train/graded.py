"""The problems of a task, and the rewards of replies to them: what loops learn from that sample and are graded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metier.artefacts import Row, Task
from metier.options import MetierError


def problems(owner: str, task: Task, split: str) -> list[Row]:
    """The rows of a split, each with a prompt. Raises MetierError when it is not there or one has none."""
    rows = list(task.part(split))
    for row in rows:
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise MetierError(f"{owner}: problem {row['id']!r} has no 'prompt' to be asked")
    return rows


def rewards(owner: str, task: Task, rows: Sequence[Row], replies: Sequence[Any], least: float) -> list[float]:
    """The first grade of each reply.

    Raises MetierError when the task grades nothing, or a grade is no finite number of at least ``least``.
    """
    found = []
    for row, graded in zip(rows, task.grade(list(rows), list(replies)), strict=True):
        name, value = next(iter(graded.items()), ("nothing", math.nan))
        if not math.isfinite(value) or value < least:
            above = "" if least == -math.inf else f" of at least {least:g}"
            raise MetierError(f"{owner}: the grade of a reply to {row['id']!r} must be a number{above}, "
                              f"got {name} = {value}")  # fmt: skip
        found.append(float(value))
    return found
