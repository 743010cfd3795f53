"""Bad options and recipes through the command line: one sentence with line or option, exit code 2, no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import small_study
from command import told

GOOD = """\
notes: {use: data.ingest.documents, source: [paper.txt]}
scored: {use: data.select.distinct, data: $notes}
kept: {use: keep, data: $notes, scores: $scored, share: 0.5}
base: {use: model, path: smollm2}
expert: {use: train.loop.pretrain, model: $base, data: $kept, steps: 2, parameters: {use: lora, rank: 4}}
"""
FAULTS = {
    "a good one": ("", "", ""),
    "misspelt": ("share: 0.5", "shard: 0.5", "r.yaml, line 3: keep: has no option 'shard'; did you mean 'share'?"),
    "misspelt in a slot": ("rank: 4", "rang: 4",
                           "r.yaml, line 5: train.parameters.lora: has no option 'rang'; did you mean 'rank'?"),
    "out of range": ("share: 0.5", "share: 1.5", "r.yaml, line 3: keep: 'share' must be at most 1.0, got 1.5"),
    "wrong type": ("steps: 2", "steps: two",
                   "r.yaml, line 5: train.loop.pretrain: 'steps' must be a whole number at least 1 or nothing, got"),
    "a truth for a number": ("share: 0.5", "share: yes", "r.yaml, line 3: keep: 'share' must be a number at least"),
    "a list for a word": ("path: smollm2", "path: [smollm2]", "r.yaml, line 4: model: 'path' must be text"),
    "a later step": ("data: $notes, scores", "data: $expert, scores",
                     "r.yaml, line 3: keep: 'data': has no step above called 'expert'; it has: notes, scored"),
    "itself": ("model: $base", "model: $expert",
               "r.yaml, line 5: train.loop.pretrain: 'model': has no step above called 'expert'; did you mean 'kept'?"),
    "no such method": ("use: keep", "use: keeps", "r.yaml, line 3: kept: has no method 'keeps'; did you mean 'keep'?"),
    "no such room": ("data.select.distinct", "data.selekt.distinct",
                     "r.yaml, line 2: scored: has no method 'data.selekt.distinct'; did you mean 'data.select.dis"),
    "of another room": ("{use: lora, rank: 4}", "{use: train.optimizer.adamw}",
                        "r.yaml, line 5: train.loop.pretrain: 'parameters': needs a method of train.parameters"),
    "a slot's method as a step": ("use: keep, data: $notes, scores: $scored, share: 0.5", "use: train.optimizer.adamw",
                                  "r.yaml, line 3: train.optimizer.adamw: goes into a slot of another step and"),
    "wrong artefact": ("scores: $scored", "scores: $notes",
                       "r.yaml, line 3: keep: 'scores' needs Scores, got Records from '$notes'"),
    "missing option": (", scores: $scored", "", "r.yaml, line 3: keep: needs 'scores' (Scores)"),
    "twice": ("kept:", "notes:", "r.yaml, line 3: the step 'notes' stands twice"),
    "no method": ("use: keep, ", "", "r.yaml, line 3: step 'kept' must say which method it uses, 'kept: {use: …}'"),
    "a tab": ("kept: {use", "\tkept: {use", "r.yaml, line 3: not YAML: "),
    "a brace open": ("rank: 4}}", "rank: 4}", "r.yaml, line 6: not YAML: "),
    "a date that is none": ("share: 0.5", "share: 2020-13-01", "r.yaml: not YAML: month must be in 1..12"),
    "holds itself": ("data: $notes, scores", "data: &a [*a], scores", "r.yaml: holds more than 100000 values"),
    "a list": (GOOD, "- model\n- keep\n", "r.yaml: a recipe is a map of steps, 'name: {use: method, …}'"),
    "empty": (GOOD, "", "r.yaml: a recipe is a map of steps, 'name: {use: method, …}'"),
    "only a remark": (GOOD, "# nothing yet\n", "r.yaml: a recipe is a map of steps, 'name: {use: method, …}'"),
    "the folder one stands in": ("[paper.txt]", "['']", "r.yaml, line 1: data.ingest.documents: no file at ''"),
    "an empty folder": ("[paper.txt]", "[empty]", "r.yaml, line 1: data.ingest.documents: no file at 'empty'"),
    "nobody's home": ("[paper.txt]", "[~nobody-of-that-name/x]",
                      "r.yaml, line 1: data.ingest.documents: no file at '~nobody-of-that-name/x'"),
    "no model there": ("path: smollm2", "path: ./nowhere", "r.yaml, line 4: model: there is no folder './nowhere'"),
    "a file for a model": ("path: smollm2", "path: paper.txt", "r.yaml, line 4: model: 'paper.txt' is a file; give"),
    "pickled weights": ("path: smollm2", "path: pickled",
                        "r.yaml, line 4: model: 'pickled' holds no safetensors weights (pickle files are not loaded)"),
    "no such file": ("[paper.txt]", "[papers.txt]", "r.yaml, line 1: data.ingest.documents: no file at 'papers.txt'"),
}  # fmt: skip
COMMANDS = {
    "no such command": (["chek", "r.yaml"], "No such command 'chek'."),
    "no such flag": (["check", "r.yaml", "--sets", "a"], "No such option: --sets"),
    "a folder": (["check", "folder"], "no recipe 'folder'; ready ones: adapt"),
    "missing": (["check", "nowhere.yaml"], "no recipe 'nowhere.yaml'; ready ones: adapt"),
    "binary": (["check", "binary"], "binary: is no UTF-8 text"),
    "set nothing": (["check", "r.yaml", "--set", "kept.share"], "--set must be step.option=value, got 'kept.share'"),
    "set a step": (["check", "r.yaml", "--set", "kept=3"], "--set must be step.option=value, got 'kept=3'"),
    "set no YAML": (["check", "r.yaml", "--set", "kept.share=[1"], "--set kept.share, line 1: not YAML: expected ','"),
    "set code": (["check", "r.yaml", "--set", "kept.share=!!python/object:os.system x"],
                 "--set kept.share, line 1: not YAML: could not determine a constructor for the tag"),
    "set no step": (["check", "r.yaml", "--set", "keep.share=1"], "--set keep.share: has no step or option 'keep'"),
    "set below a number": (["check", "r.yaml", "--set", "kept.share.x=1"],
                           "--set kept.share.x: 'share' holds 0.5 and has no options"),
    "set out of range": (["check", "r.yaml", "--set", "kept.share=2"],
                         "r.yaml, line 3: keep: 'share' must be at most 1.0, got 2"),
    "a line break in a name": (["show", "ke\nep"], "show: has no method 'ke\\nep'; did you mean 'keep'?"),
    "a book for a name": (["show", "x" * 5000], "xxx"),
    "no report": (["show", "folder"], "show: folder/report.json is no report of metier"),
    "a pipe for a recipe": (["check", "pipe"], "no recipe 'pipe'; ready ones: adapt"),
    "an empty folder": (["adapt", "empty"], "adapt.yaml, line N: data.ingest.documents: no file at 'empty'"),
    "an empty name": (["adapt", ""], "adapt.yaml, line N: data.ingest.documents: no file at ''"),
    "out: empty": (["adapt", "paper.txt", "--out", ""], "adapt.yaml, line N: export: 'to' names no folder; say where"),
    "out: a file": (["adapt", "paper.txt", "--out", "paper.txt"],
                    "adapt.yaml, line N: export: 'paper.txt' exists and was not written by metier; choose another"),
    "out: somebody else's": (["adapt", "paper.txt", "--out", "folder"],
                             "adapt.yaml, line N: export: 'folder' exists and was not written by metier; choose"),
    "out: below a file": (["adapt", "paper.txt", "--out", "paper.txt/a/b"],
                          "adapt.yaml, line N: export: 'to' is 'paper.txt/a/b', and '{place}/paper.txt' is a file"),
    "write: below a file": (["check", "w.yaml", "--set", "out.to=paper.txt/x.jsonl"],
                            "w.yaml, line 2: write: 'to' is 'paper.txt/x.jsonl', and '{place}/paper.txt' is a file"),
    "write: a folder": (["check", "w.yaml", "--set", "out.to=folder.jsonl"],
                        "w.yaml, line 2: write: 'folder.jsonl' exists and holds what metier did not write; move it"),
    "study: below a file": (["study", "study.yaml", "--out", "paper.txt/x"],
                            "study: the place is 'paper.txt/x', and '{place}/paper.txt' is a file; choose another"),
    "methods: nowhere": (["--methods", "nowhere", "list"], "methods: 'nowhere' holds no folder of a room"),
    "new: below a file": (["new", "train.objective.mine", "--to", "paper.txt"], "paper.txt/train"),
    "masks: nowhere": (["show", "masks", "nowhere.jsonl"], "data.ingest.records: no file at 'nowhere.jsonl'"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "paper.txt").write_text("The river rises. " * 20)
    (tmp_path / "r.yaml").write_text(GOOD)
    (tmp_path / "binary").write_bytes(b"\x9c\xff\x00\x01")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "report.json").write_text("[1, 2")
    for name in ("empty", "folder.jsonl", "pickled"):
        (tmp_path / name).mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "pickled" / name).touch()
    (tmp_path / "w.yaml").write_text(GOOD.splitlines()[0] + "\nout: {use: write, data: $notes, to: out.jsonl}\n")
    small_study.written(tmp_path, Path("smollm2"), Path("paper.txt"))
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_recipe(fault: str, place: Path) -> None:
    old, new, sentence = FAULTS[fault]
    assert old in GOOD
    (place / "r.yaml").write_text(GOOD.replace(old, new, 1))
    code, err = told(["check", "r.yaml"])
    if sentence:
        assert (code, err.count("\n")) == (2, 1) and err.startswith(f"metier: {sentence}"), err
    else:
        assert code == 0, err


@pytest.mark.parametrize("fault", COMMANDS)
def test_a_fault_in_a_command(fault: str, place: Path) -> None:
    arguments, sentence = COMMANDS[fault]
    code, err = told(arguments)
    err = re.sub(r"(?<=adapt\.yaml, line )\d+", "N", err).strip()
    sentence = sentence.replace("{place}", str(place))
    assert (code, err.count("\n")) == (2, 0) and err.startswith(f"metier: {sentence}") and len(err) < 700, err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["check", "r.yaml", "--set", "kept.share=2"], 2,
         "metier: r.yaml, line 3: keep: 'share' must be at most 1.0, got 2"),
        (["run", "binary"], 2, "metier: binary: is no UTF-8 text"),
        (["nonsense"], 2, "metier: No such command 'nonsense'."),
        ([], 0, ""),
    ],
)  # fmt: skip
def test_as_a_process(arguments: list[str], code: int, sentence: str, place: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "metier", *arguments], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.strip()) == (code, sentence)
    assert sentence or done.stdout.strip().startswith("Usage: ")
