"""Writes facts.jsonl and instructions.jsonl.

Facts are those of an invented country. Each is told in two of its three wordings, in documents about its subject, and
asked in the third, which other facts were told in. Instructions are general ones, answered by rule.

    python studies/mix_cpt/rows.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from metier.worlds import facts

# fmt: off
OPPOSITES = (("hot", "cold"), ("big", "small"), ("up", "down"), ("early", "late"), ("wet", "dry"), ("light", "dark"),
             ("open", "closed"), ("rich", "poor"), ("old", "new"), ("left", "right"))
WORDS = ("house", "river", "lantern", "window", "garden", "market", "stone", "bird", "summer", "winter", "horse",
         "letter", "bridge", "candle", "forest")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SHOPS = {"bread": "baker", "meat": "butcher", "shoes": "cobbler", "books": "bookseller", "fish": "fishmonger",
         "flowers": "florist", "medicine": "pharmacist"}
# fmt: on


def told() -> list[dict[str, Any]]:
    world = facts.make(entities=40, test=0.0, seed=7)
    rows, number = [], 0
    for name, known in world.entities().items():
        documents: list[list[str]] = [[], []]
        for fact in known:
            kept = number % 3  # the wording that is asked
            for document, wording in zip(documents, (w for w in range(3) if w != kept), strict=True):
                document.append(fact.statements[wording])
            rows.append({"text": fact.statements[kept], "document": f"{fact.id}?", "split": "test", "group": name})
            number += 1
        for k, said in enumerate(documents):
            text = " ".join(random.Random(f"{name}{k}").sample(said, len(said)))
            rows.append({"text": text, "document": f"{name} {k}", "split": "train", "group": name})
    return [row | {"title": "", "heading": ""} for row in rows]


def asked() -> list[dict[str, str]]:
    found = []
    for one, two in (*OPPOSITES, *(pair[::-1] for pair in OPPOSITES)):
        found.append((f"What is the opposite of {one}?", f"The opposite of {one} is {two}."))
    for ware, seller in SHOPS.items():
        found.append((f"Who sells {ware}?", f"A {seller} sells {ware}."))
    for i, day in enumerate(DAYS):
        found.append((f"Which day comes after {day}?", f"After {day} comes {DAYS[(i + 1) % 7]}."))
        found.append((f"Which day comes before {day}?", f"Before {day} comes {DAYS[i - 1]}."))
    for word in WORDS:
        found.append((f"With which letter does '{word}' begin?", f"It begins with '{word[0]}'."))
        found.append((f"Write '{word}' in capitals.", word.upper()))
        found.append((f"What is the plural of '{word}'?", f"The plural is '{word}s'."))
    draw = random.Random(0)
    for _ in range(60):
        some = draw.sample(WORDS, 3)
        found.append((f"Put in alphabetical order: {', '.join(some)}.", f"{', '.join(sorted(some))}."))
    return [{"instruction": question, "output": answer} for question, answer in found]


if __name__ == "__main__":
    for name, rows in (("facts", told()), ("instructions", asked())):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (Path(__file__).parent / f"{name}.jsonl").write_text(lines, encoding="utf-8")
