"""Writes rows.jsonl: guests described by three clues, and the house they belong to, which nobody can know for sure.

Every clue speaks for each of four houses, more or less; the house is drawn with the probabilities that follow from all
three. So the best possible answers are right only part of the time, and a model may know how often. No three clues
stand together twice. ``far`` rows say the same in words that no training row has.

    python studies/first/rows.py
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

HOUSES = ("oak", "elm", "ash", "fir")
CLUES = ("brisk", "tall", "merry", "grey", "quiet", "lame", "rich", "young", "stern", "deaf", "loud", "shy", "bald",
         "proud", "late", "tired", "kind", "lean", "pale", "vain", "calm", "bold", "mild", "hoarse")  # fmt: skip
NEAR = ("The guest is {}, {} and {}.", "A {}, {} and {} guest.")
FAR = ("Someone {}, yet {} and {}, rang.", "{}; also {}; above all {}.")
SIZES = {"train": 360, "dev": 140, "test": 300, "far": 200}
STRENGTH = 1.3  # of a clue, in nats


def rows() -> list[dict[str, str]]:
    draw = np.random.default_rng(0)
    speaks = draw.normal(0, STRENGTH, (len(CLUES), len(HOUSES)))
    triples = draw.permutation(list(itertools.combinations(range(len(CLUES)), 3)))
    found = []
    for split, triple in zip((s for s, n in SIZES.items() for _ in range(n)), triples, strict=False):
        logits = speaks[triple].sum(0)
        p = np.exp(logits - logits.max())
        house = HOUSES[draw.choice(len(HOUSES), p=p / p.sum())]
        wordings = FAR if split == "far" else NEAR
        clues = [CLUES[i] for i in draw.permutation(triple)]
        found.append({
            "text": wordings[draw.integers(len(wordings))].format(*clues), "label": house,
            "split": "test" if split == "far" else split, "words": "far" if split == "far" else "near",
        })  # fmt: skip
    return found


if __name__ == "__main__":
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (Path(__file__).parent / "rows.jsonl").write_text(lines, encoding="utf-8")
