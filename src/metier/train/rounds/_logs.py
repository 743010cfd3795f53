"""The logs of trainings inside a training, gathered at the head of its own and marked by their number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from metier.store import Work, read_log
from metier.train.state import accelerator


def inner(work: Work, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the trainings kept under these names (`setup.once`) logged; the first of them is stage 1."""
    return [
        row | {"stage": number}
        for number, name in enumerate(names, start=1)
        for row in read_log(work.folder / "checkpoints" / name)
    ]


def put_first(work: Work, rows: Sequence[dict[str, Any]]) -> None:
    """These rows, each with its `stage`, in the place of all such rows before."""
    if not rows or not accelerator().is_main_process:
        return
    both = [*rows, *(row for row in work.rows() if "stage" not in row)]
    temporary = work.folder / "log.tmp"
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in both), encoding="utf-8")
    temporary.replace(work.folder / "log.jsonl")
