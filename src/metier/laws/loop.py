"""Laws of loops and rounds: they learn, and a kill in the middle changes nothing."""

from __future__ import annotations

from pathlib import Path

from metier.disk import files_digest
from metier.laws._training import Interrupt, Stopping
from metier.laws.case import Case


def a_kill_changes_nothing(case: Case, folder: Path) -> None:
    whole = case.run(folder / "whole")
    for steps in (1, 3):
        try:
            case.run(folder / "killed", Stopping(steps))
        except Interrupt:
            continue
        raise AssertionError("the training ended before it was killed")
    again = case.run(folder / "killed")
    assert again.digest == whole.digest, "other weights after a kill"
    assert files_digest(again.path) == files_digest(whole.path), "other files after a kill"


def the_result_is_another_model(case: Case, folder: Path) -> None:
    made = case.run(folder)
    assert made.digest != case.bench.model.digest
    assert made.notes.get("steps", 0) > 0, "its notes do not tell how many steps it took"
