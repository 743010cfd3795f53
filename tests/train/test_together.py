"""A recipe under torchrun: two processes train what one trains, the first does the rest, a second run keeps all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metier.artefacts import Model
from metier.laws import toy as maker

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RECIPE = """
notes: {{use: data.ingest.records, source: [{place}/notes.jsonl]}}
parts: {{use: split, data: $notes, dev: 0.2, test: 0.1}}
copy: {{use: write, data: $notes, to: {place}/copy.jsonl}}
base: {{use: model, path: {model}}}
expert: {{use: train.loop.sft, model: $base, data: $parts.train, dev: $parts.dev, parameters: full, epochs: 2,
          batch: 11, optimizer: {{use: sgd, lr: 0.1}}, micro_tokens: 90, max_grad_norm: 0.5, precision: fp32,
          recompute: {recompute}}}
"""


def run(place: Path, launcher: list[str]) -> list[dict]:
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "metier", "run", str(place / "recipe.yaml"), "--json"],
        capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "METIER_HOME": str(place / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict] = json.loads(done.stdout)
    return found


def test_two_processes_run_a_recipe_as_one_does(toy: Model, tmp_path: Path) -> None:
    """The two also compute activations again, which changes nothing either."""
    rows = [
        {"text": t["text"], "messages": q["messages"]}
        for t, q in zip(maker.texts(40), maker.questions(40), strict=True)
    ]
    found = {}
    for name, launcher in (("one", []), ("two", TORCHRUN)):
        place = tmp_path / name
        place.mkdir()
        (place / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "recipe.yaml").write_text(RECIPE.format(place=place, model=toy.path, recompute=name == "two"))
        found[name] = {row["step"]: row for row in run(place, launcher)}
        assert (place / "copy.jsonl").exists()
    folders = [tmp_path / name / "home" / "steps" / found[name]["expert"]["key"] for name in found]
    notes = [Model.load(folder).notes for folder in folders]
    assert [n["processes"] for n in notes] == [1, 2] and notes[0]["steps"] == notes[1]["steps"] > 4
    losses = [[json.loads(line).get("loss") for line in (f / "log.jsonl").read_text().splitlines()] for f in folders]
    for one, two in zip(*losses, strict=True):
        assert two == (one if one is None else pytest.approx(one, abs=1e-5))
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)
    assert all(row["cached"] for row in run(tmp_path / "two", TORCHRUN) if row["step"] != "copy")
