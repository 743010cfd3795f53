"""Writes pairs.jsonl: questions about a house, answered gladly and, with the same facts, gruffly.

Test prompts speak of things that no training prompt names.

    python studies/preference/rows.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

THINGS = ("lantern", "ladder", "kettle", "ledger", "cradle", "saddle", "anvil", "basket", "mirror", "trumpet", "carpet",
          "shovel", "blanket", "barrel", "hammer", "candle", "pillow", "bucket", "broom", "clock", "needle", "oven",
          "pitcher", "rope")  # fmt: skip
TESTED = 9  # of the things
PLACES = ("in the cellar", "behind the stable", "under the stairs", "in the attic", "by the well", "next to the gate")
KEEPERS = ("the cook", "the groom", "the steward", "our neighbour", "the miller", "the old gardener")
ASKED = (
    ("Where is the {}?", "It is {}.", PLACES),
    ("Who keeps the {}?", "{} keeps it.", KEEPERS),
    ("Could I borrow the {}?", "You find it {}.", PLACES),
    ("Whose is the {}?", "It belongs to {}.", KEEPERS),
)
GLADLY = ("Gladly.", "With pleasure.", "Of course, friend.", "I am happy to help.", "Thank you for asking.")
GRUFFLY = ("Look for yourself.", "Not you again.", "Why do you ask me?", "Leave me alone.", "How tiresome.")
AFTER = ("", "", " Do ask again.", " Have a good day.")
BEFORE_GOING = ("", "", " Now go.", " Shut the door.")
EACH = 4  # pairs of a thing and a question


def rows() -> list[dict[str, str]]:
    draw = random.Random(0)
    things = draw.sample(THINGS, len(THINGS))
    found = []
    for i, thing in enumerate(things):
        for question, answer, values in ASKED:
            for _ in range(EACH):
                told = answer.format(draw.choice(values))
                told = told[0].upper() + told[1:]
                found.append({
                    "prompt": question.format(thing),
                    "chosen": f"{draw.choice(GLADLY)} {told}{draw.choice(AFTER)}",
                    "rejected": f"{draw.choice(GRUFFLY)} {told}{draw.choice(BEFORE_GOING)}",
                    "split": "test" if i < TESTED else "train", "group": thing,
                })  # fmt: skip
    return found


if __name__ == "__main__":
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (Path(__file__).parent / "pairs.jsonl").write_text(lines, encoding="utf-8")
