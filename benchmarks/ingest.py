"""Ingest, dedup and split of records of 1 kB: is memory flat, and time linear, from ten thousand to a million?

The real command in a process and a store of its own for every size. Memory is what is anonymous (``RssAnon``): pages of
mapped files may be let go and do not count. Seconds are those of the steps, without the start of the command.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.duplicates import sources
from benchmarks.harness import Row, machine

SIZES = (10_000, 100_000, 1_000_000)
LENGTH = 1000  # characters of a text
STEPS = """\
read: {use: data.ingest.records, source: [records.jsonl]}
novel: {use: data.select.distinct, data: $read}
kept: {use: keep, data: $read, scores: $novel}
divided: {use: split, data: $kept}
"""
BARS = {"memory": ("MiB", "<= 1.5"), "time a record": ("µs", "<= 1.25")}


def rows() -> Iterator[Row]:
    found: dict[int, dict[str, float]] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            found[size], steps = measured(size, Path(place))
        print(f"{size} records: {steps}", flush=True)
    for what, (unit, bar) in BARS.items():
        over = found[SIZES[-1]][what] / found[SIZES[0]][what]
        told = ", ".join(f"{found[size][what]:.0f} {unit} at {size}" for size in SIZES)
        yield Row(f"ingest + dedup + split of 1 GB, {what}", "a hundredth of it", over, over, over, bar,
                  "at 1,000,000 records / at 10,000", 1, machine(), told)  # fmt: skip


def measured(size: int, place: Path) -> tuple[dict[str, float], str]:
    """Peak memory in MiB and microseconds a record; and both of every step, in words."""
    write(place / "records.jsonl", size)
    (place / "recipe.yaml").write_text(STEPS, encoding="utf-8")
    command = [sys.executable, "-c", "from metier.__main__ import main; main()", "run", "recipe.yaml", "--json"]
    environment = os.environ | {"METIER_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    peaks: dict[str, float] = defaultdict(float)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=place, env=environment, text=True) as process:
        while process.poll() is None:
            anonymous = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            step = next((part.stem for part in (place / "home" / "steps").glob("*.part")), "")
            peaks[step] = max(peaks[step], int(anonymous[1]) / 1024 if anonymous else 0.0)
            time.sleep(0.01)
        assert process.stdout
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"ingest: the run over {size} records failed")
    done: list[dict[str, Any]] = json.loads(said)
    steps = ", ".join(f"{step['step']} {peaks[step['key']]:.0f} MiB {step['seconds']:.1f} s" for step in done)
    seconds = sum(step["seconds"] for step in done)
    return {"memory": max(peaks.values()), "time a record": seconds / size * 1e6}, steps


def write(path: Path, size: int) -> None:
    """Texts of a few words from here and a few from there; one in forty is a copy, one differs in a word."""
    draw = random.Random(0)
    words = [word for text in sources() for word in text.split()]
    last: list[str] = []
    with path.open("w", encoding="utf-8") as stream:
        for number in range(size):
            if number % 40 == 39:
                new = last
            elif number % 40 == 19:
                new = [*last[:50], "changed", *last[51:]]
            else:
                new, length = [], 0
                while length < LENGTH:
                    start = draw.randrange(len(words) - 6)
                    new += words[start : start + draw.randint(3, 6)]
                    length = sum(map(len, new)) + len(new)
            stream.write(json.dumps({"text": " ".join(new)}) + "\n")
            last = new
