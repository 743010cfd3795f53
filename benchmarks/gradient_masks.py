"""What choosing the weights that move costs: steps of the masking methods against full fine-tuning, on SmolLM2-135M.

A round is the next step of a training, on the same 8 rows of 256 tokens on both sides, with AdamW in float32. The first
ones do not count: the optimizer makes its state, a mask has its first look at the data. Their losses, which no mask has
touched yet, must be the same, or the benchmark ends.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import training
from benchmarks.harness import HERE, Round, Row, Side, interleaved, machine, ratio

from metier.lm import load
from metier.store import Work, home

ROWS, LENGTH, PAIRS = 8, 256, 7
NEAR = 1e-5  # nats a token
SETTINGS = {"batch": ROWS, "micro_tokens": ROWS * LENGTH}
UNIT = "ours / theirs, seconds a step"
BAR = "<= 1.05"
LOOK = {"max_tokens": 4 * LENGTH}
COMPARED: list[tuple[str, str, dict[str, Any], str, str]] = [  # work, parameters, their options, bar, note
    ("the largest fifth of each tensor's gradient", "gradient_mask", {"keep": 0.2}, BAR, ""),
    ("the largest fifth of the model's gradient", "gradient_mask", {"keep": 0.2, "within": "model"}, BAR, ""),
    ("the largest fifth, all others put back", "gradient_mask", {"keep": 0.2, "strict": True}, BAR, ""),
    ("RoAST's mask", "soft_mask", LOOK, BAR, "within an epoch: neither first look nor draw is timed"),
    ("DAS", "das", {}, BAR, "importance at random"),
    ("half fine-tuning", "half", {}, "", "no bar: backward still passes through every block"),
]  # fmt: skip


def rows() -> Iterator[Row]:
    os.environ.pop("OMP_NUM_THREADS", None)  # both sides take every core
    tokenizer = load.tokenizer_of(load.resolve("smollm2", Work(home() / "models")))
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "rows.json"
        data.write_text(json.dumps(training.packed(tokenizer, (PAIRS + 1) * ROWS, LENGTH)))
        for work, parameters, options, bar, note in COMPARED:
            sides = [_side(data, name, chosen) for name, chosen in ((parameters, options), ("full", {}))]
            found = interleaved(*sides, PAIRS, _agree)
            yield Row(f"step of {work}", "full fine-tuning", *ratio(found, "seconds"), bar, UNIT, PAIRS, machine(),
                      note)  # fmt: skip


def _side(data: Path, parameters: str, options: dict[str, Any]) -> Side:
    given = SETTINGS | {"data": str(data), "parameters": parameters, "options": options}
    return Side(HERE / "sides" / "train_masked.py", json.dumps(given))


def _agree(ours: Round, theirs: Round) -> None:
    if ours["step"] == 1 and abs(ours["loss"] - theirs["loss"]) > NEAR:
        raise SystemExit(f"gradient_masks: the first losses are {ours['loss']} and {theirs['loss']}: not the same work")
