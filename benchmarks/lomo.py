"""Peak memory of training every weight of SmolLM2 with LOMO, against AdamW: one row of 256 tokens a step.

Memory is what the process holds at the peak of its second and third step (VmHWM, so Linux only; a first step makes
AdamW's state) beyond what it held before the model was opened: weights, gradients, optimizer state and what the forward
pass keeps, without the libraries. What it keeps no optimizer changes, so both sides are also measured with blocks that
are computed again (``recompute``). Every round has a process of its own. Both sides read the same row, and their loss
before the first step must be the same, or the benchmark ends. Time is that of the same two steps, and has no bar.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks.harness import HERE, Round, Row, Side, machine, ratio

WORK = "training every weight of SmolLM2 at 1×256"
NEAR = 1e-5  # relative, of the losses before the first step
BAR = "<= 0.45"
PAIRS = 3
OURS = ("lomo", "adalomo")
KEPT = {"kept": "", "again": ", blocks computed again"}


def rows() -> Iterator[Row]:
    for optimizer, activations in itertools.product(OURS, KEPT):
        pairs = [_pair(optimizer, activations, number) for number in range(PAIRS)]
        named = f"{WORK}, {optimizer}{KEPT[activations]}"
        ours, theirs = ([side["memory"] >> 20 for side in sides] for sides in zip(*pairs, strict=True))
        weights = pairs[0][0]["weights"] >> 20
        told = f"{min(ours)} to {max(ours)} MiB against {min(theirs)} to {max(theirs)} MiB, {weights} of them weights"
        yield Row(f"memory of {named}", "AdamW", *ratio(pairs, "memory"), BAR,
                  "ours / theirs, peak resident memory beyond the libraries", PAIRS, machine(), told)  # fmt: skip
        yield Row(f"time of {named}", "AdamW", *ratio(pairs, "seconds"), "", "ours / theirs, seconds",
                  PAIRS, machine())  # fmt: skip


def _pair(optimizer: str, activations: str, number: int) -> tuple[Round, Round]:
    """Ours and AdamW; who goes first changes."""
    order = (optimizer, "adamw") if number % 2 else ("adamw", optimizer)
    found = {side: _alone(side, activations) for side in order}
    ours, theirs = found[optimizer], found["adamw"]
    if abs(ours["loss"] - theirs["loss"]) > NEAR * theirs["loss"]:
        raise SystemExit(f"lomo: the first losses are {ours['loss']} and {theirs['loss']}: not the same work")
    return ours, theirs


def _alone(optimizer: str, activations: str) -> Round:
    with Side(HERE / "sides" / "lomo_round.py", optimizer, activations) as process:
        return process.round()
