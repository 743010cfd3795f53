"""Replies of SmolLM2-135M, 16 at once: against one at a time, and against transformers' ``generate`` with 16 at once.

Greedy, in float32, on the same questions; the tokens that were really written are counted, the one that ended a reply
included, none of the padding. A round is all questions. Rendering and tokenising the questions is timed, loading the
weights is not. The replies of the two sides are compared in every round: two words may be so nearly as likely that
another batch picks the other one, so a few replies may differ, and how many do is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import HERE, PAIRS, Round, Row, Side, interleaved, machine, ratio

from metier.lm import load
from metier.store import Work, home

WORK = "generation, batch 16 tokens/s"
TOGETHER, TOKENS = 16, 64
MAY_DIFFER = 4  # replies of the 16
PROMPTS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a short poem about a lighthouse in winter.",
    "Explain how a bicycle stays upright while it is moving.",
    "List five things to check before a long drive.",
    "What is the difference between a virus and a bacterium?",
    "Summarise in two sentences why bridges need expansion joints.",
    "Translate into French: The train to Lyon leaves at half past seven.",
    "I have rice, eggs, onions and a tin of tomatoes. What can I cook tonight, and how long will it take me?",
    "How does a bill become a law in the United States?",
    "Give me three names for a small bakery, each with one sentence on why it would suit a quiet street.",
    "My neighbour plays the drums late at night. Write a polite note that asks for quiet after ten o'clock.",
    "What should a beginner know about pruning apple trees?",
    "Compare paper books and electronic readers for someone who travels by train every day and reads for an hour.",
    "Describe the water cycle to a child of eight.",
    "How many minutes are there in a week? Show how you got there.",
]


def rows() -> Iterator[Row]:
    os.environ.pop("OMP_NUM_THREADS", None)  # both sides take every core
    model = str(load.resolve("smollm2", Work(home() / "models")).path)
    given = {"model": model, "prompts": PROMPTS, "tokens": TOKENS}
    peers = [
        ("batch 1", ">= 4", "generate_ours.py", {"together": 1}),
        ("transformers 5.23 generate, batch 16", "", "generate_transformers.py", {}),
    ]
    for against, bar, script, more in peers:
        pairs = interleaved(_side("generate_ours.py", given | {"together": TOGETHER}), _side(script, given | more),
                            PAIRS, _agree)  # fmt: skip
        one, other = pairs[0]
        alike = sum(x == y for x, y in zip(one["texts"], other["texts"], strict=True))
        told = f"{one['tokens']} tokens a round, at most {TOKENS} a reply; {alike} of {len(PROMPTS)} replies alike"
        yield Row(WORK, against, *ratio(pairs, "rate"), bar, "ours / theirs, tokens a second", PAIRS, machine(), told)


def _side(script: str, settings: dict[str, Any]) -> Side:
    return Side(HERE / "sides" / script, json.dumps(settings))


def _agree(ours: Round, theirs: Round) -> None:
    differ = sum(x != y for x, y in zip(ours["texts"], theirs["texts"], strict=True))
    if differ > MAY_DIFFER:
        raise SystemExit(f"generation: {differ} of {len(ours['texts'])} greedy replies differ between the two sides")
