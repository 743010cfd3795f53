"""Trains once in one go, then kills the same training at random moments until it is done, and compares every byte.

``python kill.py FOLDER KILLS SEED`` prints a JSON row. Processes are forked from one that has the libraries loaded.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forking import forked
from metier.artefacts import Model
from metier.laws import toy as maker
from metier.store import Work
from metier.train.loop import sft
from metier.train.setup import Setup, method


def train(folder: Path, model: Model) -> None:
    sft.train(model, maker.questions(60), Setup(
        epochs=2, batch=8, micro_tokens=100, schedule="cosine", checkpoint_every=1e-6, evaluate_every=4,
        parameters=method("train.parameters", "prepare", "lora", rank=4, dropout=0.1), dev=maker.questions(6, seed=5),
        optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2), work=Work(folder),
    ))  # fmt: skip


def result(folder: Path) -> dict[str, str]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in Work(folder).rows() if "kept" not in row]
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "model").iterdir()}
    return found | {
        "log": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "steps": str(sum("loss" in r for r in rows)),
    }


def main(place: Path, kills: int, seed: int) -> None:
    model = maker.write(place / "toy")
    begun = time.monotonic()
    forked(lambda: train(place / "whole", model), None)
    whole = time.monotonic() - begun
    expected = result(place / "whole")
    draw = random.Random(seed)
    at: list[int] = []
    shutil.rmtree(place / "killed", ignore_errors=True)
    while len(at) < kills:
        if forked(lambda: train(place / "killed", model), draw.uniform(0.1, 0.8) * whole):
            shutil.rmtree(place / "killed")
            continue
        at.append(max((row.get("step", 0) for row in Work(place / "killed").rows()), default=0))
    forked(lambda: train(place / "killed", model), None)
    print(json.dumps({"equal": result(place / "killed") == expected, "killed_at": at, "steps": int(expected["steps"])}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
