"""Writes rows.csv: things and the room each belongs to, asked in several ways.

python studies/half/rows.py
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOMS = {
    "kitchen": "ladle whisk kettle sieve skillet grater teapot colander",
    "garden": "spade rake trowel hose shears dibber wheelbarrow sprinkler",
    "office": "stapler ledger folder lectern calendar envelope stamp binder",
    "stable": "saddle bridle halter manger currycomb stirrup horseshoe blinkers",
    "harbour": "anchor oar buoy rudder winch hawser mooring lantern",
    "workshop": "anvil chisel vice lathe mallet plane gimlet solder",
}
TRAIN = ("Where does the {} belong?", "Who moved the {}? It goes back to its room:", "Put this away: {}.",
         "I found a {}. Which room is it from?", "The {} is kept in the", "Room of the {}?")  # fmt: skip
TEST = ("Tell me where the {} goes.", "A {} lay on the stairs. Its place?", "Carry the {} home, please.")


def rows() -> list[tuple[str, str, str]]:
    """(text, label, split)."""
    return [
        (template.format(thing), room, split)
        for split, templates in (("train", TRAIN), ("test", TEST))
        for template in templates for room, things in ROOMS.items() for thing in things.split()
    ]  # fmt: skip


if __name__ == "__main__":
    with (Path(__file__).parent / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("text", "label", "split"), *rows()])
