"""How near `metier check` comes: memory and time it says before, against what the run then took.

``python benchmarks/preflight.py`` on an otherwise idle machine; every recipe in a store of its own. Prints a row a
recipe and the ratios said / taken: memory without trying anything, memory and time with ``--measure``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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


def tried(name: str, steps: str, place: Path) -> dict[str, float | str]:
    """Said and taken, of one recipe; time of what is still to be done after the measuring."""
    recipe, home = place / "recipe.yaml", place / "home"
    recipe.write_text(START + steps, encoding="utf-8")
    foreseen = metier(home, "check", str(recipe))
    measured = metier(home, "check", str(recipe), "--measure")
    said = sum(row["seconds"] or 0.0 for row in measured if not row["kept"])
    begun = time.monotonic()
    ran = metier(home, "run", str(recipe))
    wall = time.monotonic() - begun
    fresh = [row for row in ran if not row["cached"]]
    taken = sum(row["seconds"] for row in fresh)
    peak = max(row["peak_memory_bytes"] for row in ran)
    return {"recipe": name, "memory foreseen / taken": max(r["memory_bytes"] for r in foreseen) / peak,
            "memory measured / taken": max(r["memory_bytes"] for r in measured) / peak,
            "time said / taken": said / taken,
            "seconds taken": taken, "wall": wall, "GiB taken": peak / 2**30}  # fmt: skip


def main() -> None:
    rows = []
    for name, steps in RECIPES.items():
        with tempfile.TemporaryDirectory() as place:
            rows.append(tried(name, steps, Path(place)))
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else v for k, v in rows[-1].items()), flush=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
