"""How near `metier check` comes: memory and time it says before, against what the run then took.

On an otherwise idle machine; every recipe in a store of its own. Rows of said / taken: memory from shapes alone, memory
and time with ``--measure``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, machine

START = """
base: {use: model, path: smollm2}
text: data.ingest.general_text
best: {use: data.select.readable, data: $text}
kept: {use: keep, data: $text, scores: $best, share: 0.1}
general: {use: tasks.general, choice: 40, prose: 8, arithmetic: 30, grammar: 30, forms: 6}
"""
ASKED = "after: {use: evaluate.compare, chats: {expert: $expert}, tasks: [$general]}\n"
RECIPES = {
    "lora, upper half": "expert: {use: train.loop.pretrain, model: $base, data: $kept, steps: 8, step_tokens: 1024,"
    " parameters: {use: lora, last: half}}\n" + ASKED,
    "lora, all blocks": "expert: {use: train.loop.pretrain, model: $base, data: $kept, steps: 6, step_tokens: 1024}\n",
    "full": "expert: {use: train.loop.pretrain, model: $base, data: $kept, steps: 6, step_tokens: 1024,"
    " parameters: full, optimizer: {use: adamw, lr: 1e-5}}\n",
    "asked only": "after: {use: evaluate.compare, chats: {base: $base}, tasks: [$general]}\n",
}


def metier(home: Path, *arguments: str) -> Any:
    code = "from metier.__main__ import main; main()"
    environment = os.environ | {"METIER_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments, "--json"], capture_output=True, text=True,
                          check=True, env=environment)  # fmt: skip
    return json.loads(done.stdout)


def rows() -> Iterator[Row]:
    """Of every recipe three."""
    for name, steps in RECIPES.items():
        with tempfile.TemporaryDirectory() as place:
            found = tried(steps, Path(place))
        for key, bar in (("memory from shapes", ""), ("memory", "± 0.20"), ("time", "± 0.35")):
            said, taken = found[key]
            note = (
                f"{said / 2**30:.2f} of {taken / 2**30:.2f} GiB" if "memory" in key else f"{said:.0f} of {taken:.0f} s"
            )
            over = said / taken
            yield Row(f"check: {key}, {name}", "the run", over, over, over, bar, "said / taken", 1, machine(), note)


def tried(steps: str, place: Path) -> dict[str, tuple[float, float]]:
    """Said and taken, of one recipe; of what is still to be done after the measuring."""
    recipe, home = place / "recipe.yaml", place / "home"
    recipe.write_text(START + steps, encoding="utf-8")
    foreseen = metier(home, "check", str(recipe))
    measured = metier(home, "check", str(recipe), "--measure")
    ran = [row for row in metier(home, "run", str(recipe)) if not row["cached"]]
    left = {row["step"] for row in ran}
    peak = max(row["peak_memory_bytes"] for row in ran)
    return {
        "memory from shapes": (max(row["memory_bytes"] for row in foreseen if row["step"] in left), peak),
        "memory": (max(row["memory_bytes"] for row in measured if row["step"] in left), peak),
        "time": (sum(row["seconds"] for row in measured if row["step"] in left), sum(row["seconds"] for row in ran)),
    }
