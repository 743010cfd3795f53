"""What the benchmarks share works with real processes, and what is written of their results is what was measured."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks are no package that is installed

from benchmarks import harness, run

CHILD = """
import sys, time
import numpy as np
from benchmarks.harness import serve

matrix = np.arange(int(sys.argv[1]) ** 2, dtype=float).reshape(int(sys.argv[1]), -1)
calls = 0

def work():
    global calls
    calls += 1
    print("a library has something to say")
    return {"trace": float(np.trace(matrix @ matrix)), "calls": calls, "at": time.monotonic()}

serve(work)
"""


@pytest.fixture
def sides(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    return harness.Side(script, "2"), harness.Side(script, "3")


def test_rounds_are_interleaved_and_the_first_pair_only_warms_up(sides):
    compared = []
    found = harness.interleaved(*sides, 3, lambda *pair: compared.append(pair))
    assert [(a["trace"], b["trace"]) for a, b in found] == [(13.0, 180.0)] * 3
    assert [(a["calls"], b["calls"]) for a, b in compared] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert found == compared[1:]
    assert [a["at"] < b["at"] for a, b in compared] == [True, False, True, False]


def test_work_that_differs_ends_the_benchmark_and_its_processes(sides):
    def agree(ours, theirs):
        if ours["trace"] != theirs["trace"]:
            raise SystemExit(f"the traces are {ours['trace']} and {theirs['trace']}")

    with pytest.raises(SystemExit, match=r"the traces are 13\.0 and 180\.0"):
        harness.interleaved(*sides, 3, agree)
    assert [side.process.returncode for side in sides] == [0, 0]


def test_a_side_that_ends_early_is_told(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("print('nothing to serve')", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"child\.py two: ended"), harness.Side(script, "two") as side:
        side.round()


def test_the_ratio_is_that_of_medians_and_its_range_that_of_pairs():
    pairs = [({"s": 2.0}, {"s": 4.0}), ({"s": 3.0}, {"s": 4.0}), ({"s": 9.0}, {"s": 3.0})]
    assert harness.ratio(pairs, "s") == (0.75, 0.5, 3.0)
    assert harness.ratio(pairs, "s", inverse=True) == (pytest.approx(4 / 3), pytest.approx(1 / 3), 2.0)


def row(ratio: float, bar: str = "", machine: str = "here") -> harness.Row:
    return harness.Row("work", "peer", ratio, ratio - 0.5, ratio + 0.5, bar, "ours / theirs", 5, machine)


@pytest.mark.parametrize(
    ("ratio", "bar", "met"),
    [(2.0, ">= 2.0", True), (1.99, ">= 2.0", False), (0.2, "<= 0.20", True), (0.21, "<= 0.20", False),
     (1.0, "< 1.0", False), (0.9, "< 1.0", True), (9.0, "", None)],
)  # fmt: skip
def test_a_row_knows_whether_its_bar_is_met(ratio, bar, met):
    assert row(ratio, bar).met is met


def test_a_row_takes_the_place_of_the_same_work_on_the_same_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    for kept in (row(1.5, ">= 2"), row(3.0, machine="elsewhere"), row(2.5, ">= 2")):
        run.keep(kept)
    assert run.read() == [row(2.5, ">= 2"), row(3.0, machine="elsewhere")]
    assert run.markdown([row(2.5, ">= 2"), row(1.5, ">= 2")]).splitlines()[2:] == [
        "| work | peer | 2.50 (2.00–3.00) | >= 2 |", "| work | peer | 1.50 (1.00–2.00) | >= 2 (missed) |"
    ]  # fmt: skip


def test_every_benchmark_that_can_be_run_has_rows():
    for name in run.MODULES:
        assert "def rows() -> Iterator[Row]:" in (harness.HERE / f"{name}.py").read_text(encoding="utf-8"), name


def test_the_results_are_whole_and_their_verdicts_follow_from_them():
    if not run.RESULTS.exists():
        pytest.skip("nothing was measured yet")
    kept = json.loads(run.RESULTS.read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(harness.Row)}
    for entry, one in zip(kept, run.read(), strict=True):
        assert set(entry) == fields | {"met"}, one.work
        assert entry["met"] is one.met, one.work
        assert one.low <= one.ratio <= one.high and one.pairs > 0 and one.unit and one.machine, one.work


def test_the_readme_says_what_was_measured():
    readme = (harness.ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- benchmarks -->\n(.*?)\n<!-- /benchmarks -->", readme, re.DOTALL)
    if found is None:
        pytest.skip("README.md has no table of benchmarks")
    assert found[1].strip() == run.markdown(run.read())
