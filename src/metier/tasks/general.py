"""General skills: prose, multiple choice, sums, grammar, and keeping an asked form.

For any specialist, to see what it forgot; small enough to run before and after on two cores. All items travel with
metier or are made by rule; none of them is ever trained on. A change is judged against a margin fixed here: 0.02 bits
per byte of prose, 3 points of right answers. A share of right answers is judged by itself from 500 rows on; the three
kinds of choices are also pooled, each with the same weight. Asked forms are few: reported, never judged.

Options:
    choice: questions of multiple choice (facts, films, general knowledge); nothing means all there are.
    prose: passages of general prose to read; nothing means all there are.
    arithmetic: sums and products.
    grammar: pairs of sentences of which one is grammatical.
    forms: prompts that ask for a form; 0 leaves them out.
    seed: decides which items are taken and which are made.
Raises: MetierError when more are asked for than there are.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from metier.artefacts import Measure, Records, Row, Task
from metier.general import data, rules
from metier.options import Count, MetierError, Natural, Seed

NEEDS = {"chats": dict.fromkeys(("bits_per_byte", "choice", "arithmetic", "grammar"), "logits")}
ACCURACY_MARGIN, BITS_MARGIN = 0.03, 0.02
POOL = "general skills, pooled"


def make(
    *, choice: Count | None = 320, prose: Count | None = 30, arithmetic: Natural = 240, grammar: Natural = 240,
    forms: Natural = 12, seed: Seed = 0,
) -> Task:  # fmt: skip
    sums = rules.arithmetic(arithmetic, seed)
    pairs = rules.minimal_pairs(grammar, seed)
    rows = [_read(row) for row in _sample("prose", data.prose(), prose, seed)]
    rows += [_choose("choice", row) for row in _sample("choice", data.choice_items(), choice, seed)]
    rows += [_choose("arithmetic", row) for row in sums] + [_choose("grammar", row) for row in pairs]
    rows += [_write(row) for row in rules.forms(forms, seed)]
    asked = {row["measure"] for row in rows} | ({"stops"} if forms else set())
    measures = {name: m for name, m in _measures(rows).items() if name in asked}
    return Task("general", "tasks.general", Records.from_rows(rows), measures, {"seed": seed})


def grade(records: list[Row], replies: list[Any]) -> list[dict[str, float]]:
    """Whether a reply keeps the asked form, and whether it came to an end by itself."""
    return [
        rules.check_form(json.loads(row["check"]), reply.text, reply.finish == "stop")
        for row, reply in zip(records, replies, strict=True)
    ]


def _measures(rows: list[Row]) -> dict[str, Measure]:
    chances = {
        name: float(np.mean([1 / len(r["choices"]) for r in rows if r["measure"] == name] or [0]))
        for name in ("choice", "arithmetic", "grammar")
    }

    def choose(name: str, title: str, words: str) -> Measure:
        return Measure(
            "choose", "retention", "accuracy", "higher", title, words, ACCURACY_MARGIN, chances[name], pool=POOL
        )

    def write(title: str, words: str) -> Measure:
        return Measure("write", "retention", "share", "higher", title, words)

    return {
        "bits_per_byte": Measure("read", "retention", "bits per byte", "lower", "general prose",
                                 "Bits for each byte of articles, country reports and novels.", BITS_MARGIN),
        "choice": choose("choice", "multiple choice", "Facts, films and general knowledge, as multiple choice."),
        "arithmetic": choose("arithmetic", "arithmetic", "Sums and products of small numbers, four choices."),
        "grammar": choose("grammar", "grammar", "The grammatical one of two sentences, made by rule."),
        "form": write("keeps the asked form", "Replies in the form asked for: one word, three lines, a number, JSON."),
        "stops": write("comes to an end", "Replies that end by themselves."),
    }  # fmt: skip


def _sample(name: str, rows: list[Row], count: int | None, seed: int) -> list[Row]:
    if count is None:
        return rows
    if count > len(rows):
        raise MetierError(f"tasks.general: '{name}' must be at most {len(rows)}, got {count}")
    return [rows[i] for i in sorted(np.random.default_rng(seed).permutation(len(rows))[:count])]


def _read(row: Row) -> Row:
    return {"id": f"prose/{row['id']}", "split": "test", "measure": "bits_per_byte", "cluster": row["source"],
            "prompt": "", "text": row["text"]}  # fmt: skip


def _choose(measure: str, row: Row) -> Row:
    return {"id": row["id"], "split": "test", "measure": measure, "cluster": row["id"], "prompt": row["question"],
            "choices": row["choices"], "gold": row["gold"]}  # fmt: skip


def _write(row: Row) -> Row:
    return {"id": row["id"], "split": "test", "measure": "form", "cluster": row["id"], "prompt": row["prompt"],
            "check": json.dumps(row["check"], sort_keys=True)}  # fmt: skip
