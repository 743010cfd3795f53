"""Laws of data methods: every record has an id of its own, and nothing is lost without a word."""

from __future__ import annotations

from pathlib import Path

from metier.artefacts import Records
from metier.laws.case import Case
from metier.store import Work


def every_record_has_an_id_of_its_own(case: Case, folder: Path) -> None:
    made: Records = case.run(folder)
    ids = made.column("id")
    assert len(made) > 0, "it gives nothing"
    assert all(isinstance(i, str) and i for i in ids) and len(set(ids)) == len(ids), "an id is missing or stands twice"


def what_was_read_is_kept_or_dropped(case: Case, folder: Path) -> None:
    """Where records come in: those that are gone are counted in the log, with a reason each."""
    work = Work(folder)
    inputs = case.inputs(work)
    made: Records = case.function(**inputs)
    data = inputs.get("data")
    if isinstance(data, Records):
        counted = [row for row in work.rows() if "kept" in row and "read" in row]
        lost = len(data) - len(made)
        assert lost <= 0 or any(sum(row["dropped"].values()) >= lost for row in counted), f"{lost} records are gone"
        for row in counted:
            assert row["kept"] + sum(row["dropped"].values()) == row["read"], row
