"""Writes logs.jsonl: reports of a pumping station, the third field of the study.

python studies/das/rows.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

LINES = (
    "{h:02d}:{m:02d} pump {p} starts, pressure {b} bar, flow {f} litres.",
    "{h:02d}:{m:02d} pump {p} stops after {m} minutes; valve {p} closed.",
    "{h:02d}:{m:02d} alarm on pump {p}: pressure {b} bar exceeds the limit of 40.",
    "{h:02d}:{m:02d} filter {p} flushed, {f} litres lost.",
    "{h:02d}:{m:02d} level of basin {p} is {b} per cent, inlet open.",
    "{h:02d}:{m:02d} operator {o} takes over from {q}.",
)
NAMES = ("Brandt", "Okafor", "Lind", "Marchetti", "Sato", "Novak")
REPORTS, TEST = 130, 26


def rows() -> list[dict[str, str]]:
    draw = random.Random(0)
    found = []
    for number in range(REPORTS):
        first, second = draw.sample(NAMES, 2)
        hours = sorted(draw.sample(range(24), 8))
        lines = [
            draw.choice(LINES).format(h=h, m=draw.randrange(60), p=draw.randint(1, 6), b=draw.randint(10, 60),
                                      f=draw.randint(100, 900), o=first, q=second)
            for h in hours
        ]  # fmt: skip
        text = f"Station report {number + 1}\n" + "\n".join(lines)
        found.append({"text": text, "split": "test" if number >= REPORTS - TEST else "train"})
    return found


if __name__ == "__main__":
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (Path(__file__).parent / "logs.jsonl").write_text(lines, encoding="utf-8")
