from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def metier(*arguments: str, given: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from metier.__main__ import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=given, cwd=cwd, timeout=200)


def test_every_table_is_also_json() -> None:
    methods = json.loads(metier("list", "--json").stdout)
    assert {"name": "keep", "room": "steps", "verb": "run"}.items() <= next(
        m for m in methods if m["name"] == "keep"
    ).items()
    papers = json.loads(metier("papers", "--json").stdout)
    assert len(papers) == 119 and set(papers[0]) == {"paper", "title", "files", "tests", "study", "verdict"}
    assert {"name", "value", "ok", "advice"} <= set(json.loads(metier("doctor", "--json").stdout)[0])
    steps = json.loads(metier("check", "adapt", "--json").stdout)
    assert [s["step"] for s in steps][-1] == "out"
    card = json.loads(metier("show", "train.optimizer.adamw", "--json").stdout)
    assert {"option": "lr", "takes": "a number at least 0", "default": "0.0002"} in card["options"]


def test_a_card_and_a_recipe_are_shown() -> None:
    shown = metier("show", "keep").stdout
    assert shown.startswith("keep\n") and "share" in shown and "a number at least 0 and at most 1" in shown
    assert metier("show", "adapt").stdout.startswith("# Documents in, specialist and honest report out")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lisp"], "metier: No such command 'lisp'"),
        (["adapt"], "metier: Missing argument"),
        (["list", "train.objectives"], "metier: list: no room 'train.objectives'"),
        (["show", "kept"], "metier: show: has no method 'kept'; did you mean 'keep'?"),
        (["check", "adopt"], "metier: no recipe 'adopt'; ready ones: adapt"),
        (["adapt", "x", "--budget", "soon"],
         "metier: adapt.yaml, line 31: plan: 'budget' must be a time such as 600, 90s, 10m or 2h, got 'soon'"),
        (["adapt", "x", "--set", "plan=3"], "metier: --set must be step.option=value, got 'plan=3'"),
        (["adapt", "x", "--set", "expert.rank=3"], "metier: adapt.yaml, line 34: train.loop.pretrain: has no option"),
        (["adapt", "x", "--retention", "arc"], "metier: --retention must be lm-eval:TASK[,TASK…], got 'arc'"),
        (["adapt", "nowhere"], "metier: adapt.yaml, line 7: data.ingest.documents: no file at 'nowhere'"),
        (["adapt", "x", "--model", "./nowhere"], "metier: adapt.yaml, line 4: model: there is no folder './nowhere'"),
        (["chat", "a", "b"], "metier: chat: --compare needs two models, as in: metier chat --compare smollm2"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("One document, one sentence.")
    done = metier(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(sentence), done.stderr
    assert "Traceback" not in done.stderr


def test_a_conversation_ends_with_the_input(toy: object) -> None:
    folder = str(toy.path)  # type: ignore[attr-defined]
    done = metier("chat", folder, "--max-tokens", "3", given="hello\nagain\n")
    assert done.returncode == 0, done.stderr
    beside = metier("chat", "--compare", folder, folder, "--max-tokens", "3", given="hello\n")
    assert beside.returncode == 0 and "─" in beside.stdout, beside.stderr


def test_ctrl_c_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The river rises. " * 400)
    command = [sys.executable, "-c", "from metier.__main__ import main; main()", "adapt", "docs", "--out", "out"]
    environment = os.environ | {"METIER_HOME": str(tmp_path / "home")}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "home" / "steps").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=100)
    assert running.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "metier: stopped; the same command goes on from here"
    assert "Traceback" not in errors and not (tmp_path / "out").exists()
