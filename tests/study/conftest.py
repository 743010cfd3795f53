from __future__ import annotations

from pathlib import Path

import pytest

from metier.laws import toy as maker


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maker.write(tmp_path_factory.mktemp("study") / "model").path


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "docs"
    folder.mkdir()
    for row in maker.texts(24, words=80):
        (folder / f"{row['id']}.txt").write_text(row["text"] + ".\n", encoding="utf-8")
    return folder
