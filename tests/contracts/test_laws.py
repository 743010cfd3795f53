"""Every law on every method that the folders hold; a new file is under them without a word here."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier import catalogue
from metier.laws import run
from metier.laws.case import Bench

TRIED = [(name, law) for name, method in catalogue.methods().items() for law in run.laws(method)]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize(("name", "law"), TRIED, ids=[f"{name}-{law}" for name, law in TRIED])
def test_law(name: str, law: str, bench: Bench, tmp_path: Path) -> None:
    verdict = run.keep(catalogue.methods()[name], law, bench, tmp_path)
    if verdict.holds is None:
        pytest.skip(verdict.why)
    assert verdict.holds, verdict.why


@pytest.mark.parametrize("name", catalogue.methods())
def test_an_exemption_names_a_law_and_a_reason(name: str) -> None:
    assert not run.unknown_exemptions(catalogue.methods()[name])
