"""Asks one or many chats the same rows of one or many tasks, and keeps every answer.

For before and after, for control arms, for a model beside the same one with retrieval. A measure is asked as its task
says: *read* gives the bits of a text, *choose* whether the likeliest choice is the right one, *write* the grades of a
reply. One row per chat, measure and record stays, so that paired tests and new totals need no second run. What is
finished of a run that was killed is not asked again.

    total of a chat and measure = Σ value / Σ weight        (bits / bytes; right answers / answers)

Options:
    only: the measures to ask, as far as the task has rows for them; all when not given.
    max_tokens: length of a written reply, at most.
Raises: MetierError when there is nothing to ask, two tasks share a name, or a task cannot grade replies.
"""

from __future__ import annotations

import math

from metier.artefacts import Report, Row, Task
from metier.evaluate import _ask
from metier.lm.chat import Chat, Sampling
from metier.options import Count
from metier.store import Work


def measure(
    chats: dict[str, Chat], tasks: list[Task], *, only: list[str] | None = None, max_tokens: Count = 48, work: Work
) -> Report:  # fmt: skip
    """Rows: task, measure, chat, id, cluster, value, weight, prompt, gold, reply.

    Numbers: ``totals`` {chat: {task: {measure: {value, n}}}}, ``tasks`` (measures and notes of each),
    ``cost`` {seconds, tokens}.
    """

    def ask(chat: Chat, task: Task, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
        kind = task.measures[name].ask
        if kind == "read":
            return _read(chat, name, rows, advance)
        if kind == "choose":
            scores, tokens = _ask.choose(chat, rows, task.measures[name].normalise, advance)
            return [_ask.chosen(name, r, s) for r, s in zip(rows, scores, strict=True)], tokens
        return _write(chat, task, rows, max_tokens, advance)

    found = _ask.collect(
        "evaluate.compare", chats, tasks, ask, work, facts=(max_tokens,), only=only, reply_tokens=max_tokens
    )
    return _ask.report(tasks, found)


def _read(chat: Chat, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
    found = _ask.read(chat, rows, advance)
    made = [
        _ask.made(name, r, -nats / math.log(2), len(r["text"].encode()), gold=r["text"])
        for r, (nats, _) in zip(rows, found, strict=True)
    ]
    return made, sum(tokens for _, tokens in found)


def _write(chat: Chat, task: Task, rows: list[Row], max_tokens: int, advance: _ask.Advance) -> tuple[list[Row], float]:
    replies = _ask.write(chat, rows, Sampling(max_tokens), advance)
    made = [
        _ask.made(name, r, value, gold=r.get("reference") or "", reply=reply.text)
        for r, reply, graded in zip(rows, replies, task.grade(rows, replies), strict=True)
        for name, value in graded.items()
    ]
    return made, sum(r.tokens for r in replies)
