"""Writes rows.csv: opinions of three things each, good or bad by the majority, in four views.

*near*: restaurants, as in training; *shift*: films, with the same adjectives; *typos*: restaurants with two letters of
each adjective swapped; *other*: no opinions at all, so that nobody should be sure (their labels are drawn).

    python studies/robust_tuning/rows.py
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

GOOD = ("lovely", "splendid", "charming", "superb", "pleasant", "delightful", "excellent", "graceful", "brilliant",
        "perfect", "cheerful", "elegant")  # fmt: skip
BAD = ("dreadful", "terrible", "boring", "clumsy", "horrible", "hopeless", "miserable", "dismal", "tasteless", "shabby",
       "annoying", "pathetic")  # fmt: skip
RESTAURANT = ("soup", "waiter", "wine", "menu", "terrace", "dessert", "music", "bill", "bread", "table")
FILM = ("plot", "actor", "score", "ending", "camera", "dialogue", "costume", "villain", "title", "director")
FORMS = ("The {} was {}, the {} {} and the {} {}.", "A {} that was {}; a {} {}; a {} {}.",
         "I found the {} {}, the {} {}, the {} {}.")  # fmt: skip
OTHER = ("Pump {} reports {} bar at {} o'clock.", "Train {} leaves from platform {} at {}.",
         "Add {} to {} and divide by {}.")  # fmt: skip
SIZES = {"train": 320, "near": 140, "shift": 140, "typos": 140, "other": 80}


def rows() -> list[tuple[str, str, str, str]]:
    """(text, label, split, view)."""
    draw, seen = random.Random(0), set()
    found: list[tuple[str, str, str, str]] = []
    while len(found) < sum(SIZES.values()):
        view = next(v for v, n in SIZES.items() if sum(r[3] == (v if v != "train" else "near") and (
            r[2] == "train") == (v == "train") for r in found) < n)  # fmt: skip
        text, label = other(draw) if view == "other" else opinion(draw, view)
        if text not in seen:
            seen.add(text)
            split = "train" if view == "train" else "test"
            found.append((text, label, split, "near" if view == "train" else view))
    return found


def opinion(draw: random.Random, view: str) -> tuple[str, str]:
    sides = [draw.random() < 0.5 for _ in range(3)]
    adjectives = [draw.choice(GOOD if good else BAD) for good in sides]
    if view == "typos":
        adjectives = [swapped(word, draw) for word in adjectives]
    things = draw.sample(FILM if view == "shift" else RESTAURANT, 3)
    filled = [word for pair in zip(things, adjectives, strict=True) for word in pair]
    return draw.choice(FORMS).format(*filled), "good" if sum(sides) > 1 else "bad"


def swapped(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def other(draw: random.Random) -> tuple[str, str]:
    numbers = [draw.randint(1, 60) for _ in range(3)]
    return draw.choice(OTHER).format(*numbers), draw.choice(("good", "bad"))


if __name__ == "__main__":
    with (Path(__file__).parent / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("text", "label", "split", "view"), *rows()])
