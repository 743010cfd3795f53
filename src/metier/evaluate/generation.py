"""Written replies, graded by their task: several samples a question, metrics, refusals.

For what a user sees: a temperature, a length, a guard. Beside the grades of the task stand, for each measure ``m``, the
share *m.refused*, the *m.confidence* of replies where the model tells it, and *m.exact*, *m.f1* (words in common) or
*m.chrf* (characters in common) against the rows' `reference`. Refusals count as replies in every mean; numbers under
``answered`` leave them out. With `n` samples each is a row of its own, in the cluster of its question. Measures that
are read or chosen are left out.

Paper: SQuAD: 100,000+ Questions for Machine Comprehension of Text (Rajpurkar et al., 2016)

Options:
    only: the measures to ask; all that are written when not given.
    metrics: of *exact*, *f1*, *chrf*; chrf needs sacrebleu.
    max_tokens: length of a reply, at most.
    temperature: 0 is greedy.
    top_p: share of the probability that samples are drawn from.
    n: replies a question.
    seed: of the samples.
    stop: texts that end a reply; they are cut off.
Raises: MetierError when no task has anything to write, one cannot grade replies, or sacrebleu is missing for chrf.
Differs: chrf is the mean over replies, not of counts over the corpus, so that rows can be paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from metier.artefacts import Measure, Report, Row, Task
from metier.evaluate import _ask
from metier.lm.chat import Chat, Reply, Sampling
from metier.options import Count, MetierError, NonNegative, Seed, Share
from metier.store import Work
from metier.text import match

NEEDS = {"access": "text"}
EXAMPLE = {"tasks": ["$written"], "max_tokens": 6}
Metric = Literal["exact", "f1", "chrf"]
DERIVED: dict[str, tuple[str, Literal["higher", "lower"], str]] = {
    "refused": ("share", "lower", "Replies that are a refusal."),
    "confidence": ("probability", "higher", "How sure the model is of its reply."),
    "exact": ("share", "higher", "Replies that are the reference but for case, punctuation and articles."),
    "f1": ("F1", "higher", "Words a reply shares with the reference."),
    "chrf": ("chrF", "higher", "Runs of characters a reply shares with the reference."),
}


def measure(
    chats: dict[str, Chat], tasks: list[Task], *, only: list[str] | None = None, metrics: list[Metric] = [],  # noqa: B006
    max_tokens: Count = 256, temperature: NonNegative = 0.0, top_p: Share = 1.0, n: Count = 1, seed: Seed = 0,
    stop: list[str] = [], work: Work,  # noqa: B006
) -> Report:  # fmt: skip
    """Rows as of `evaluate.compare`; the second sample of the row ``a`` is ``a#2``.

    Numbers: also ``answered`` {chat: {task: {measure: {refused, n, grades}}}}, grades of what was not refused.
    """
    sampling = Sampling(max_tokens, temperature, top_p, n, seed, tuple(stop))
    closeness = closeness_of(metrics)

    def ask(chat: Chat, task: Task, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
        replies = _ask.write(chat, rows, sampling, advance)
        each = [r | ({"id": f"{r['id']}#{k + 1}"} if k else {}) for r in rows for k in range(n)]
        grades = task.grade(each, replies)
        found = [_rows(name, *one, closeness) for one in zip(each, replies, grades, strict=True)]
        return [row for of_one in found for row in of_one], sum(r.tokens for r in replies)

    found = _ask.collect(
        "evaluate.generation", chats, tasks, ask, work, facts=(sampling, sorted(closeness)), only=only,
        kinds=("write",), reply_tokens=max_tokens * n,
    )  # fmt: skip
    written = [
        dataclasses.replace(t, measures={k: m for k, m in t.measures.items() if m.ask == "write"}) for t in tasks
    ]
    derived = {
        t.name: {
            f"{k}.{d}": Measure("write", m.kind, unit, better, f"{m.title}, {d}", words)
            for k, m in t.measures.items() for d, (unit, better, words) in DERIVED.items()
        } for t in written
    }  # fmt: skip
    return _ask.report(written, found, derived, answered=_answered(found.rows, written))


def _rows(
    name: str, row: Row, reply: Reply, graded: dict[str, float], closeness: dict[str, Callable[[str, str], float]]
) -> list[Row]:
    values: dict[str, float] = {f"{name}.refused": float(reply.refused)}
    if reply.certainty is not None:
        values[f"{name}.confidence"] = reply.certainty
    if row.get("reference"):
        values |= {f"{name}.{k}": close(reply.text, row["reference"]) for k, close in closeness.items()}
    gold = row.get("reference") or ""
    return [_ask.made(k, row, v, gold=gold, reply=reply.text) for k, v in (graded | values).items()]


def _answered(rows: pa.Table, tasks: list[Task]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in tasks:
        by_measure = _ask.grouped_rows(rows, task.name)
        for chat, name in by_measure:
            if name.endswith(".refused") and name not in task.measures:
                refused = {r["id"]: r["value"] > 0 for r in by_measure[chat, name]}
                grades = {
                    m: [r["value"] for r in by_measure.get((chat, m), []) if not refused.get(r["id"], True)]
                    for m in task.measures
                }
                found.setdefault(chat, {}).setdefault(task.name, {})[name.removesuffix(".refused")] = {
                    "refused": float(np.mean(list(refused.values()))),
                    "n": sum(not said for said in refused.values()),
                    "grades": {m: float(np.mean(values)) for m, values in grades.items() if values},
                }
    return found


def closeness_of(metrics: list[Metric]) -> dict[str, Callable[[str, str], float]]:
    """By name, how close a reply is to a reference, 0 to 1. Raises MetierError when an extra is missing."""
    found: dict[str, Callable[[str, str], float]] = {"exact": match.exact, "f1": match.token_f1}
    if "chrf" in metrics:
        try:
            from sacrebleu import sentence_chrf  # an extra
        except ModuleNotFoundError:
            raise MetierError('evaluate.generation: chrf needs sacrebleu: pip install "metier[eval]"') from None
        found["chrf"] = lambda reply, reference: float(sentence_chrf(reply, [reference]).score / 100)
    return {name: found[name] for name in metrics}


checks = {"measure": closeness_of}
