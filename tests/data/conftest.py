from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metier.artefacts import Records
from metier.data.ingest import documents
from metier.store import Work

Reader = Callable[..., tuple[Records, dict[str, str]]]


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Reads sources and returns the records and, per dropped file, its reason."""

    def call(*source: Path | str, **options: Any) -> tuple[Records, dict[str, str]]:
        work = Work(tmp_path_factory.mktemp("work"))
        records = documents.read([str(s) for s in source], work=work, **options)
        return records, {row["file"]: row["reason"] for row in work.rows() if row["event"] == "dropped"}

    return call
