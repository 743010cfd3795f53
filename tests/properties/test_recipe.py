"""Any YAML is a recipe that runs or one sentence with file and line, and what was checked stays what was written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import junk
from metier import calls, cli, recipe
from metier.options import MetierError

READY = (Path(cli.__file__).parent / "recipes" / "adapt.yaml").read_text(encoding="utf-8")
draws = st.integers(0, 2**32).map(random.Random)


@pytest.fixture(autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("place")
    (folder / "paper.txt").write_text("The river rises. " * 20)
    monkeypatch.chdir(folder)


def checked(text: str, changes: dict[str, object] | None = None) -> list[calls.Call] | None:
    try:
        return recipe.check(recipe.parse(text, "r.yaml", changes), "r.yaml")
    except MetierError as error:
        assert str(error).startswith(("r.yaml: ", "r.yaml, line ", "--set ")), error
        assert str(error).isprintable()
        return None


@given(draws)
@settings(max_examples=100, deadline=None)
def test_damaged_recipes_are_calls_or_one_sentence(draw: random.Random) -> None:
    checked(junk.recipe(draw, READY))


@given(draws)
@settings(max_examples=80, deadline=None)
def test_steps_references_and_slots_are_calls_or_one_sentence(draw: random.Random) -> None:
    found = checked(junk.yaml_text(junk.steps(draw)))
    for call in found or []:
        calls.describe(call.arguments)


@given(st.lists(st.sampled_from(["notes", "expert", "optimizer", "use", "lr", "", "0", "é"]), max_size=4), draws)
@settings(max_examples=80, deadline=None)
def test_a_change_anywhere_is_taken_or_one_sentence(path: list[str], draw: random.Random) -> None:
    checked(READY, {".".join(path): junk.value(draw)})


@given(st.integers(1, 30), st.sampled_from(["keeps", "model"]))
@settings(max_examples=20, deadline=None)
def test_the_line_is_the_faults(line: int, use: str) -> None:
    text = "# remark\n" * (line - 1) + f"a: {{use: {use}, pathh: x}}"
    with pytest.raises(MetierError, match=f"^r.yaml, line {line}: "):
        recipe.check(recipe.parse(text, "r.yaml"), "r.yaml")


def test_what_was_checked_can_be_written_and_checked_again() -> None:
    found = checked(READY)
    assert found is not None
    written = {c.name: {"use": c.method.name} | calls.describe(c.arguments) for c in found}
    again = checked(yaml.safe_dump(written, sort_keys=False))
    assert again is not None
    assert [calls.describe(c.arguments) for c in again] == [calls.describe(c.arguments) for c in found]
