"""How long the commands take that look at something and compute nothing: wall time of a process each, warm disk."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, machine

COMMANDS = (["--help"], ["list"], ["show", "train.loop.sft"])
RUNS = 11
METIER = str(Path(sys.executable).with_name("metier"))


def rows() -> Iterator[Row]:
    for command in COMMANDS:
        taken = sorted([seconds(command) for _ in range(RUNS + 1)][1:])
        yield Row(f"metier {' '.join(command)}", "–", statistics.median(taken), taken[0], taken[-1], "< 0.3",
                  "seconds", RUNS, machine())  # fmt: skip


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([METIER, *command], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return time.perf_counter() - begun
