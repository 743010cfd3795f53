from __future__ import annotations

from pathlib import Path

import pytest

from metier import recipe, runner
from metier.options import MetierError
from metier.store import Store

RECIPE = """
chunks: {use: data.ingest.documents, source: [docs]}
mixed: {use: blend, sources: &both {own: $chunks, again: $chunks},
        scores: {use: data.mix.fixed, sources: *both, shares: {own: 1, again: 1}}}
own: {use: where, data: $mixed, column: source, equals: own}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for i in range(3):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"Document number {i} tells of the river and of the mill.\n" * 3)
    return tmp_path


def go(place: Path, **changes: object) -> dict[str, runner.Done]:
    return runner.run(recipe.check(recipe.parse(RECIPE, "r.yaml", changes)), Store(place / "home"))


def computed(done: dict[str, runner.Done]) -> list[str]:
    return [name for name, step in done.items() if not step.cached]


def test_a_second_run_computes_nothing(place: Path) -> None:
    first = go(place)
    assert computed(first) == ["chunks", "mixed", "own"]
    second = go(place)
    assert computed(second) == []
    assert [s.digest for s in second.values()] == [s.digest for s in first.values()]
    assert len(second["own"].open()) == len(first["chunks"].open()) == 3


def test_a_changed_option_reruns_exactly_what_depends_on_it(place: Path) -> None:
    go(place)
    assert computed(go(place, **{"mixed.scores.shares": {"own": 1, "again": 2}})) == ["mixed", "own"]
    assert computed(go(place, **{"own.equals": "again"})) == ["own"]
    assert computed(go(place, **{"mixed.scores.shares": {"own": 2, "again": 2}})) == []  # the same shares


def test_a_changed_input_file_reruns_what_reads_it_and_a_moved_folder_nothing(place: Path) -> None:
    go(place)
    (place / "docs").rename(place / "papers")
    assert computed(go(place, **{"chunks.source": ["papers"]})) == []
    (place / "papers" / "0.txt").write_text("Something else entirely, about a mountain and its name.\n")
    assert computed(go(place, **{"chunks.source": ["papers"]})) == ["chunks", "mixed", "own"]


def test_what_was_computed_before_a_fault_is_kept(place: Path) -> None:
    with pytest.raises(MetierError, match="where: no record has source = 'nobody'"):
        go(place, **{"own.equals": "nobody"})
    assert computed(go(place)) == ["own"]


def test_the_log_of_a_step_begins_again_with_it(place: Path) -> None:
    store = Store(place / "home")
    calls = recipe.check(recipe.parse(RECIPE))
    key = runner.run(calls, store)["mixed"].key
    rows = store.log(key)
    assert [r["event"] for r in rows] == ["blend", "blend"]
    (store.steps / key).rename(store.steps / f"{key}.part")  # as a kill just before the rename leaves it
    again = runner.run(calls, store)
    assert computed(again) == ["mixed"] and store.log(key) == rows
