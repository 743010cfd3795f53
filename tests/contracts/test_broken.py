"""Every law fails on a method that breaks it: written from the template, with the fault put in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from metier import catalogue, runner, scaffold
from metier.laws import run
from metier.laws.case import Bench
from metier.lm.chat import Reply
from metier.worlds.writer import Scripted

MATHS = "raise NotImplementedError  # the maths"

BROKEN: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("broken.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "bench").mkdir()
    return Bench(tmp_path / "bench")  # a fresh one: some of the methods here spoil it


@pytest.mark.parametrize("law", BROKEN)
def test_a_method_that_breaks_a_law_is_found(
    law: str, bench: Bench, tmp_path: Path, own_methods: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = BROKEN[law]
    name = f"{broken['room']}.broken_{law}"
    path, _ = scaffold.write(name, tmp_path / "own")
    text = path.read_text(encoding="utf-8").replace(MATHS, broken["maths"])
    for fault in broken.get("faults", []):
        assert fault["right"] in text, f"the template has no {fault['right']!r}"
        text = text.replace(fault["right"], fault["wrong"], 1)
    path.write_text(text, encoding="utf-8")
    own_methods(tmp_path / "own")
    if law == "empty_data_is_refused_in_one_sentence":  # the runner refuses for all
        monkeypatch.setattr(runner, "refuse_empty", lambda *_: None)
    verdict = run.keep(catalogue.find(name), law, bench, tmp_path / "tried")
    assert verdict.holds is False and verdict.why, "the law did not see it"


def test_what_a_writer_said_the_first_time_is_not_read_the_second_time(bench: Bench, tmp_path: Path) -> None:
    class Moody(Scripted):
        asked = itertools.count()

        def reply(self, *given: Any) -> list[Reply]:
            return [dataclasses.replace(r, text=f"{r.text} {next(self.asked)}") for r in super().reply(*given)]

    method, law = catalogue.find("data.answer.writer"), "the_same_again_gives_the_same"
    assert run.keep(method, law, bench, tmp_path / "steady").holds
    bench.__dict__["writer"] = Moody(bench.world)
    assert run.keep(method, law, bench, tmp_path / "moody").holds is False


def test_every_law_is_broken_once() -> None:
    laws = {law for method in catalogue.methods().values() for law in run.laws(method)}
    assert laws - set(BROKEN) == set(), "no broken method for these"
