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
COPIES = 0.05  # of the records; every second one with a word changed
STEPS = """
read:   {use: data.ingest.records, source: [records.jsonl]}
novel:  {use: data.select.distinct, data: $read}
kept:   {use: keep, data: $read, scores: $novel}
divided: {use: split, data: $kept}
"""


def rows() -> Iterator[Row]:
    found = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            found[size] = measured(size, Path(place))
        print(f"{size:>9} records  " + "  ".join(f"{k} {v}" for k, v in found[size].items()), flush=True)
    small, large = found[SIZES[0]], found[SIZES[-1]]
    for what, bar, unit in (("memory", "<= 1.5", "MiB"), ("microseconds a record", "<= 1.25", "microseconds a record")):
        over = large[what] / small[what]
        told = ", ".join(f"{n}: {found[n][what]:.0f}" for n in SIZES)
        work = f"ingest + dedup + split of 1 GB, {what}"
        yield Row(work, "10,000 records", over, over, over, bar, unit, 1, machine(), told)


def measured(size: int, place: Path) -> dict[str, float]:
    write(place / "records.jsonl", size)
    (place / "recipe.yaml").write_text(STEPS, encoding="utf-8")
    command = [sys.executable, "-c", "from metier.__main__ import main; main()", "run", "recipe.yaml", "--json"]
    environment = os.environ | {"METIER_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    peaks: dict[str, int] = defaultdict(int)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=place, env=environment, text=True) as process:
        while process.poll() is None:
            anonymous = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            step = next((p.stem for p in (place / "home" / "steps").glob("*.part")), "")
            peaks[step] = max(peaks[step], int(anonymous[1]) if anonymous else 0)
            time.sleep(0.01)
        assert process.stdout
        done: list[dict[str, Any]] = json.loads(process.stdout.read())
    if process.returncode:
        raise SystemExit(f"ingest: the run over {size} records failed")
    seconds = {step["step"]: step["seconds"] for step in done}
    return {
        "memory": max(peaks.values()) / 1024,
        "microseconds a record": sum(seconds.values()) / size * 1e6,
        **{f"{s['step']}": f"{peaks[s['key']] / 1024:.0f} MiB {s['seconds']:.1f} s" for s in done},
    }


def write(path: Path, size: int) -> None:
    """Texts of a few words from here and a few from there, so that hardly five in a row stand in two of them."""
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
