from __future__ import annotations

from pathlib import Path

import pytest

from package.wheels import ROOT, build, install


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist of the checkout, by their endings."""
    return build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist")


@pytest.fixture(scope="session")
def python(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment where metier comes from the wheel, and nothing from the checkout."""
    return install(built[".whl"], tmp_path_factory.mktemp("empty"))
