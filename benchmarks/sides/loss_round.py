"""Cross entropy forward and backward, ours or plain: ``python loss_round.py ours frozen``; see ``loss_memory.py``."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.harness import Round, serve
from torch import Tensor
from torch.nn.functional import cross_entropy

from metier.lm.loss import token_loss

BATCH, TIME, VOCABULARY, WIDTH = 4, 256, 49152, 576
CALLS = 8  # timed in a round
Answer = tuple[Tensor, Tensor, Tensor | None]  # loss, gradient of the hidden states, gradient of the head
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def ours(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return token_loss(hidden, head, labels, over=len(labels))


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(hidden @ head.t(), labels)


def inputs(count: int, trained: bool) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, WIDTH, generator=random)
    head = torch.randn(VOCABULARY, WIDTH, generator=random) / WIDTH**0.5
    labels = torch.randint(VOCABULARY, (count,), generator=random)
    return hidden.requires_grad_(), head.requires_grad_(trained), labels


def answer(loss: Callable[[Tensor, Tensor, Tensor], Tensor], hidden: Tensor, head: Tensor, labels: Tensor) -> Answer:
    hidden.grad = head.grad = None
    value = loss(hidden, head, labels)
    value.backward()
    assert hidden.grad is not None
    return value.detach(), hidden.grad, head.grad


def resident(line: str) -> int:
    """Bytes of this process's memory that the kernel counts under VmRSS (now) or VmHWM (the most so far)."""
    found = re.search(rf"^{line}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def difference(a: Answer, b: Answer) -> float:
    """The largest of the values, each against the largest of its tensor."""
    parts = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in parts)


def main() -> None:
    side, trained = {"ours": ours, "plain": plain}[sys.argv[1]], sys.argv[2] == "trained"

    def work() -> Round:
        answer(side, *inputs(2, trained))  # loads code and starts threads
        given = inputs(BATCH * TIME, trained)
        CLEAR.write_text("5")  # the most so far is now what is held
        held = resident("VmRSS")
        found = answer(side, *given)
        memory = resident("VmHWM") - held
        seconds = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            answer(side, *given)
            seconds.append(time.perf_counter() - begun)
        return {"memory": memory, "seconds": statistics.median(seconds),
                "difference": difference(found, answer(plain, *given))}  # fmt: skip

    serve(work)


if __name__ == "__main__":
    main()
