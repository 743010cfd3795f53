"""Writes rows.csv: things and what they are made of, a fifth of the training answers wrong.

Every thing is asked about in six ways, and each answer is wrong by itself: what most of them say is right. The test
rows ask in three other ways and are all right.

    python studies/gradient_mask/rows.py
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

MATTERS = {
    "wood": "barrel ladder fence oar crate mast rafter canoe stool yoke cradle trellis paddle pallet",
    "iron": "anchor horseshoe poker hinge girder anvil chain shackle grate kettle rail spike crowbar boiler",
    "glass": "window bottle lens vial prism beaker mirror carafe bulb flask tumbler goblet jar pane",
    "cloth": "curtain banner apron sail towel quilt scarf napkin cushion tent blanket sack shirt flag",
    "stone": "lintel obelisk millstone cairn cobble gravestone arch column sundial doorstep fountain kerb statue vault",
    "paper": "letter map ticket ledger novel poster stamp diary lampion folder notebook calendar invoice leaflet",
}
TRAIN = ("What is a {} made of?", "This {} is of", "Material of the {}:", "They bought a {}. It is made of",
         "Name what the {} consists of.", "Tell me about the {}: which material?")  # fmt: skip
TEST = ("Of what would you make a {}?", "The {} broke. It was of", "In the {} there is mostly")
WRONG = 0.2


def rows() -> list[tuple[str, str, str]]:
    """(text, label, split)."""
    draw = random.Random(0)
    right = [(thing, matter) for matter, things in MATTERS.items() for thing in things.split()]
    asked = [(template.format(thing), matter) for template in TRAIN for thing, matter in right]
    wrong = set(draw.sample(range(len(asked)), round(WRONG * len(asked))))
    found = []
    for number, (text, matter) in enumerate(asked):
        others = [name for name in MATTERS if name != matter]
        found.append((text, draw.choice(others) if number in wrong else matter, "train"))
    return found + [(template.format(thing), matter, "test") for template in TEST for thing, matter in right]


if __name__ == "__main__":
    with (Path(__file__).parent / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("text", "label", "split"), *rows()])
