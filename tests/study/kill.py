"""Runs a study in a process that is killed at random moments until it is done; ``python kill.py FOLDER SEED``."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401 - loaded before anything is forked

from metier import catalogue, study
from metier.store import Store


def forked(place: Path, out: Path, store: Path, seconds: float | None) -> bool:
    """Whether the study came to its end before it was killed."""
    child = os.fork()
    if child == 0:
        study.run(place / "study.yaml", out, Store(store))
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return not os.WIFSIGNALED(status)


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
    forked(place, place / "whole", place / "store", None)
    whole = time.monotonic() - begun
    draw, killed = random.Random(seed), 0
    while killed < 2:
        if forked(place, place / "killed", place / "other", draw.uniform(0.2, 0.5) * whole):
            break
        killed += 1
    finished = len([p for p in (place / "other" / "steps").iterdir() if p.suffix != ".part"])
    forked(place, place / "killed", place / "other", None)
    print(json.dumps({"killed": killed, "finished": finished}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
