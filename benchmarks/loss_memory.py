"""Memory and time of cross entropy under a large head, against PyTorch's own: 4 rows of 256 tokens, 49,152 words.

Forward and backward of the loss alone, hidden states of SmolLM2's width, every position supervised; the plain side is
``cross_entropy(hidden @ head.T, labels)`` and keeps no logits itself. Memory is the growth of the process's resident
memory at its peak (VmHWM, so Linux only), which counts what PyTorch and its libraries take, in a process that has done
nothing else: every round has one of its own, after a call with two rows that loads code and starts threads. Time is the
median of the calls that follow. Loss and gradients must be the plain ones, or the benchmark ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.harness import HERE, PAIRS, Round, Row, Side, machine, ratio

WORK = "loss memory at 4×256×49152"
NEAR = 1e-4  # of the largest value
BARS = {"frozen": "<= 0.20", "trained": "<= 0.70"}
TIME_BAR = "<= 1.0"


def rows() -> Iterator[Row]:
    os.environ.pop("OMP_NUM_THREADS", None)  # both sides take every core
    for head, bar in BARS.items():
        pairs = [_pair(head, number) for number in range(PAIRS)]
        ours, theirs = ([side["memory"] >> 20 for side in sides] for sides in zip(*pairs, strict=True))
        told = f"{min(ours)} to {max(ours)} MiB against {min(theirs)} to {max(theirs)} MiB"
        yield Row(f"{WORK}, {head} head", "plain cross entropy", *ratio(pairs, "memory"), bar,
                  "ours / theirs, growth of resident memory at its peak", PAIRS, machine(), told)  # fmt: skip
        yield Row(f"{WORK}, {head} head, time", "plain cross entropy", *ratio(pairs, "seconds"), TIME_BAR,
                  "ours / theirs, seconds", PAIRS, machine())  # fmt: skip


def _pair(head: str, number: int) -> tuple[Round, Round]:
    """Ours and plain; who goes first changes."""
    order = ("ours", "plain") if number % 2 else ("plain", "ours")
    found = {side: _alone(side, head) for side in order}
    if not found["ours"]["difference"] <= NEAR:
        raise SystemExit(f"loss memory: with a {head} head loss or gradient is {found['ours']['difference']:.1e} away"
                         f" from the plain one, more than {NEAR:.0e}")  # fmt: skip
    return found["ours"], found["plain"]


def _alone(side: str, head: str) -> Round:
    with Side(HERE / "sides" / "loss_round.py", side, head) as process:
        return process.round()
