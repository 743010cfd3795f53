"""Training on a bad day: what cannot be learnt from is named, and what was computed before is kept."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import told

RECIPE = """\
rows: {use: data.ingest.records, source: [chats.jsonl]}
base: {use: model, path: model}
expert: {use: train.loop.sft, model: $base, data: $rows, steps: 2, batch: 4, length: 64, parameters: full}
"""
COMMAND = [sys.executable, "-c", "from metier.__main__ import main; main()", "run", "r.yaml"]
KEPT = "kept from before"


def talk(asked: str, reply: str | None = "open") -> dict[str, Any]:
    said = [] if reply is None else [{"role": "assistant", "content": reply}]
    return {"messages": [{"role": "user", "content": asked}, *said]}


GOOD = [talk(f"river {i}") for i in range(8)]
DATA = {
    "no reply within the length": (
        [talk("river " * 200)] * 5,
        "metier: train: no record to train on (5 × no reply within 64 tokens); raise 'length'",
    ),
    "no reply at all": ([talk("river", None)] * 5, "metier: train: no record to train on (5 × nothing to learn from)"),
    "only silent replies": (
        [{"messages": [GOOD[0]["messages"][0], GOOD[0]["messages"][1] | {"weight": 0}]}],
        "metier: train: no record to train on (1 × nothing to learn from)",
    ),
    "roles that do not alternate": (
        [*GOOD, {"messages": [*GOOD[0]["messages"][:1], *GOOD[0]["messages"]]}],
        "metier: chats.jsonl, line 9: message 2 is from 'user' and should be from 'assistant'",
    ),
    "shapes that are mixed": (
        [*GOOD, {"text": "river"}],
        "metier: chats.jsonl, line 9: is text, and the file began (line 1) with messages",
    ),
    "a weight below nothing": (
        [row | {"weight": -1} for row in GOOD],
        "metier: train: the column 'weight' must hold numbers of at least 0, one of them greater",
    ),
    "nothing but weights of 0": (
        [row | {"weight": 0} for row in GOOD],
        "metier: train: the column 'weight' must hold numbers of at least 0, one of them greater",
    ),
}


@pytest.fixture
def place(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(toy.path, tmp_path / "model")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))
    return tmp_path


def write(place: Path, rows: list[dict[str, Any]]) -> None:
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(*sets: str) -> tuple[object, list[str]]:
    """Exit code, and the lines on standard error."""
    code, err = told(["run", "r.yaml", *(part for one in sets for part in ("--set", one))])
    return code, err.strip().splitlines()


@pytest.mark.parametrize("fault", DATA)
def test_data_that_nothing_can_be_learnt_from(fault: str, place: Path) -> None:
    rows, sentence = DATA[fault]
    write(place, rows)
    code, lines = run()
    assert (code, lines[-1]) == (2, sentence)


def test_line_731_is_named(place: Path) -> None:
    write(place, [GOOD[0]] * 740)
    lines = (place / "chats.jsonl").read_text().splitlines()
    lines[730] = lines[730][:-3]
    (place / "chats.jsonl").write_text("\n".join(lines))
    code, told_lines = run()
    assert code == 2 and told_lines[-1].startswith("metier: chats.jsonl, line 731: not valid JSON: Expecting ")


def test_a_mended_option_goes_on_from_what_was_computed(place: Path) -> None:
    code, lines = run("expert.length=4")
    assert (code, lines[-1]) == (
        2,
        "metier: train: no record to train on (8 × no reply within 4 tokens); raise 'length'",
    )
    code, lines = run()
    assert code == 0 and [line.split()[0] for line in lines if KEPT in line] == ["rows", "base"]


def test_conversations_for_a_loop_that_reads_texts(place: Path) -> None:
    code, lines = run("expert.use=train.loop.pretrain")
    assert code == 2
    assert lines[-1].startswith("metier: train: pre-training needs records with a 'text'; they have: id, messages, ")


def test_a_template_that_fails_stops_conversations_and_not_texts(place: Path) -> None:
    (place / "model" / "chat_template.jinja").write_text("{{ raise_exception('no users here') }}")
    code, lines = run()
    assert code == 2 and "the chat template refuses the conversation: no users here (the template of " in lines[-1]
    write(place, [{"text": "the river rises " * 9}] * 8)
    assert run("expert.use=train.loop.pretrain")[0] == 0
    (place / "model" / "chat_template.jinja").write_text("{% for m in messages %}")
    code, lines = run()
    assert code == 2 and lines[-1].startswith("metier: model: 'model': line 1 of its chat template is no jinja: ")


@pytest.mark.parametrize("most", [10_000, 200_000])  # bytes: the first checkpoint, and the optimizer's part of it
def test_a_full_disk_in_the_midst_of_training_loses_nothing(most: int, place: Path) -> None:
    sets = ["--set", "expert.checkpoint_every=0.000001"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run([*COMMAND, *sets], capture_output=True, text=True, preexec_fn=limited, timeout=200)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("metier: cannot write ") and ".safetensors: a file may not grow this large" in said
    code, lines = run("expert.checkpoint_every=0.000001")
    assert code == 0 and [line.split()[0] for line in lines if KEPT in line] == ["rows", "base"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_midst_of_training_it_goes_on_from_there(number: int, code: int, place: Path) -> None:
    sets = ["--set", "expert.checkpoint_every=0.000001", "--set", "expert.steps=120"]
    process = subprocess.Popen([*COMMAND, *sets], stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 150
    while len(steps(place)) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err.strip().splitlines()[-1]) == (
        code, "metier: stopped; the same command goes on from here"
    )  # fmt: skip
    assert "Traceback" not in err
    before = steps(place)
    assert 5 <= len(before) < 120
    assert run("expert.checkpoint_every=0.000001", "expert.steps=120")[0] == 0
    after = steps(place)
    assert [row["step"] for row in after] == list(range(1, 121))
    assert after[: len(before) - 2] == before[:-2]  # to the millisecond: they were not computed again


def steps(place: Path) -> list[dict[str, Any]]:
    """The rows that a training, at work or finished, has logged for its steps."""
    found = []
    for log in place.glob("home/steps/*/log.jsonl"):
        for line in log.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            found += [row] if "loss" in row else []
    return found
