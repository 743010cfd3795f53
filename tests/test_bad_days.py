"""What a changed file re-runs, two runs at once, a full disk, Ctrl-C: with the real command."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
texts: {use: data.ingest.documents, source: [DOCS]}
long: {use: data.select.mine, data: $texts}
best: {use: keep, data: $texts, scores: $long, share: 0.5}
again: {use: data.select.length, data: $best}
"""
METHOD = '''"""Scores by length.

Options:
    power: of the length.
"""

from metier.artefacts import Records, Scores
from metier.data.select import _helper
from metier.options import Positive


def score(data: Records, *, power: Positive = 1.0) -> Scores:
    """A number for each."""
    texts = zip(data.column("id"), data.column("text"), strict=True)
    return Scores.from_rows({"id": i, "score": _helper.worth(text) ** power, "reason": None} for i, text in texts)
'''
HELPER = '"""A helper."""\n\n\ndef worth(text: str) -> float:\n    return float(len(text))  # characters\n'
MAIN = "from metier.__main__ import main; main()"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    room = tmp_path / "own" / "data" / "select"
    room.mkdir(parents=True)
    (room / "mine.py").write_text(METHOD, encoding="utf-8")
    (room / "_helper.py").write_text(HELPER, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    for i in range(12):
        words = " ".join(f"word{i}x{k} stands in a line of its own." for k in range(40 + i))
        (tmp_path / "docs" / f"{i}.txt").write_text(words, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE.replace("DOCS", str(tmp_path / "docs")), encoding="utf-8")
    return tmp_path


def command(place: Path, *arguments: str, code: str = MAIN) -> list[str]:
    methods, recipe = str(place / "own"), str(place / "r.yaml")
    return [sys.executable, "-c", code, "--methods", methods, "run", recipe, "--json", *arguments]


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"METIER_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}


def ran(place: Path, *arguments: str, code: str = MAIN) -> list[dict[str, Any]]:
    done = subprocess.run(command(place, *arguments, code=code), capture_output=True, text=True, env=environment(place))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def fresh(rows: list[dict[str, Any]]) -> list[str]:
    return [row["step"] for row in rows if not row["cached"]]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_change_reruns_exactly_what_depends_on_it(place: Path) -> None:
    room = place / "own" / "data" / "select"
    everything = ["texts", "long", "best", "again"]
    assert fresh(ran(place)) == everything
    assert fresh(ran(place)) == []
    edit(room / "_helper.py", "  # characters", "  # a comment changes nothing")
    edit(room / "mine.py", '"""A number for each."""', '"""Nor does a docstring."""')
    assert fresh(ran(place)) == []
    edit(room / "_helper.py", "len(text))", "-len(text) + 10**6)")
    assert fresh(ran(place)) == ["long", "best", "again"]
    edit(room / "mine.py", "** power", "* power")  # another method, the same scores at power 1
    assert fresh(ran(place)) == ["long"]
    assert fresh(ran(place, "--set", "long.power=2")) == ["long", "best"]  # the best stay the same
    assert fresh(ran(place, "--set", "best.share=0.25")) == ["best", "again"]
    edit(place / "docs" / "3.txt", "word3x1", "another")
    assert fresh(ran(place)) == everything
    other = "import importlib.metadata as m; v = m.version; m.version = lambda n: '0.0' if n == '{}' else v(n); "
    assert fresh(ran(place, code=other.format("pdfminer.six") + MAIN)) == ["texts"]  # it alone reads documents
    assert fresh(ran(place, code=other.format("pyarrow") + MAIN)) == everything
    assert fresh(ran(place, code=other.format("peft") + MAIN)) == []
    assert fresh(ran(place)) == []


def test_two_runs_at_once_share_what_they_compute(place: Path) -> None:
    pairs = [command(place), command(place), command(place, "--set", "best.share=0.25")]
    running = [
        subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place))
        for one in pairs
    ]
    told = [(process.communicate(timeout=200), process.returncode) for process in running]
    assert [code for _, code in told] == [0, 0, 0], told
    rows = [json.loads(out) for (out, _), _ in told]
    assert [r["key"] for r in rows[0]] == [r["key"] for r in rows[1]]
    assert [r["key"] for r in rows[0]][:2] == [r["key"] for r in rows[2]][:2]
    folders = {p.name for p in (place / "home" / "steps").iterdir()}
    assert folders == {r["key"] for one in rows for r in one}
    assert fresh(ran(place)) == []


@pytest.mark.parametrize("most", [200, 3_000, 20_000])
def test_a_full_disk_is_one_sentence_and_loses_nothing(place: Path, most: int) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(command(place), capture_output=True, text=True, env=environment(place), preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("metier: ")]
    assert len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(ran(place)) == 4
    assert fresh(ran(place)) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_at_any_moment_it_says_so_and_goes_on(place: Path, number: int, code: int) -> None:
    for seconds in (0.4, 0.9, 1.6, 2.4):
        process = subprocess.Popen(command(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=environment(place))  # fmt: skip
        time.sleep(seconds)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode in (code, 0), error
        assert "Traceback" not in error
        if process.returncode:
            assert error.strip().splitlines()[-1] == "metier: stopped; the same command goes on from here"
    assert len(ran(place)) == 4
