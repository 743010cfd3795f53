"""Runs a study in a process that is killed at random moments until it is done; ``python kill.py FOLDER SEED``."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401 - loaded before anything is forked

sys.path.insert(0, str(Path(__file__).parents[1]))

from forking import forked
from metier import catalogue, study
from metier.store import Store


def main(place: Path, seed: int) -> None:
    for name in (
        "data.ingest.documents",
        "split",
        "train.loop.pretrain",
        "evaluate.compare",
        "tasks.documents",
        "train.parameters.full",
    ):
        catalogue.load(catalogue.methods()[name])  # the libraries are loaded once, before anything is forked
    begun = time.monotonic()
    forked(lambda: study.run(place / "study.yaml", place / "whole", Store(place / "store")), None)
    whole = time.monotonic() - begun
    draw, killed = random.Random(seed), 0

    def again() -> None:
        study.run(place / "study.yaml", place / "killed", Store(place / "other"))

    while killed < 2:
        if forked(again, draw.uniform(0.2, 0.5) * whole):
            break
        killed += 1
    finished = len([p for p in (place / "other" / "steps").iterdir() if p.suffix != ".part"])
    forked(again, None)
    print(json.dumps({"killed": killed, "finished": finished}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
