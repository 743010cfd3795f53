"""pass@k: how often one of k sampled replies is right, estimated from n of them.

For tasks whose replies are graded right or wrong: whether a model can find an answer at all (large k) beside whether it
gives it at once (k = 1). Self-training and rewards often raise pass@1 at the cost of pass@k; look at both. Only pass@k
of each written measure is reported; `evaluate.generation` has the grades themselves. It draws `n` replies to every
question, so it costs n times as much.

    pass@k = mean over questions of 1 − C(n − c, k) / C(n, k)      c of n replies are right (graded 1)

Paper: 48
Options:
    only: the measures to ask; all that are written when not given.
    n: replies a question.
    k: how many of them may be tried; one number or several, n at most.
    max_tokens: length of a reply, at most.
    temperature: of the sampling; 0 gives n equal replies.
    top_p: share of the probability that samples are drawn from.
    seed: of the samples.
Raises: MetierError when a k is above n, no task has anything to write, or one cannot grade replies.
Differs: samples are cut at `top_p`, not at the 40 likeliest words.
"""

from __future__ import annotations

import dataclasses
from math import comb

from metier.artefacts import Measure, Report, Row, Task
from metier.evaluate import _ask
from metier.lm.chat import Chat, Sampling
from metier.options import Count, MetierError, NonNegative, Seed, Share
from metier.store import Work

NAME = "evaluate.pass_at"
NEEDS = {"access": "text"}
EXAMPLE = {"tasks": ["$written"], "max_tokens": 6, "n": 2, "k": [1, 2]}


def measure(
    chats: dict[str, Chat], tasks: list[Task], *, only: list[str] | None = None, n: Count = 16,
    k: Count | list[Count] = [1, 8],  # noqa: B006
    max_tokens: Count = 256, temperature: NonNegative = 0.7, top_p: Share = 1.0, seed: Seed = 0, work: Work,
) -> Report:  # fmt: skip
    """Rows: one a question and k, measure ``<measure>.pass@<k>``, value the estimate, reply the share of right ones."""
    tries = tries_of(n, k)
    sampling = Sampling(max_tokens, temperature, top_p, n, seed)

    def ask(chat: Chat, task: Task, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
        replies = _ask.write(chat, rows, sampling, advance)
        grades = task.grade([r for r in rows for _ in range(n)], replies)
        found = []
        for number, row in enumerate(rows):
            mine = grades[number * n : (number + 1) * n]
            for graded in mine[0]:
                right = sum(grade[graded] >= 1 for grade in mine)
                found += [
                    _ask.made(f"{graded}.pass@{at}", row, estimate(n, right, at), gold=row.get("reference") or "",
                              reply=f"{right} of {n} are right")
                    for at in tries
                ]  # fmt: skip
        return found, sum(r.tokens for r in replies)

    found = _ask.collect(
        NAME, chats, tasks, ask, work, facts=(sampling, tries), only=only, kinds=("write",), reply_tokens=max_tokens * n
    )
    derived = {
        t.name: {
            f"{m}.pass@{at}": Measure("write", how.kind, "share", "higher", f"{how.title}, pass@{at}",
                                      f"Questions of which one of {at} sampled replies is right.")
            for m, how in t.measures.items() if how.ask == "write" for at in tries
        } for t in tasks
    }  # fmt: skip
    bare = [dataclasses.replace(task, measures={}) for task in tasks]
    return _ask.report(bare, found, derived)


def estimate(n: int, right: int, k: int) -> float:
    """The chance that k of the n replies, drawn without putting back, hold one of the ``right`` ones."""
    return 1 - comb(n - right, k) / comb(n, k)


def tries_of(n: int, k: int | list[int]) -> list[int]:
    """Every k once, in order. Raises MetierError when there is none, or one above ``n``."""
    tries = sorted({k} if isinstance(k, int) else set(k))
    if not tries or tries[-1] > n:
        raise MetierError(f"{NAME}: 'k' must be numbers of at most 'n', {n}, got {k}")
    return tries


checks = {"measure": tries_of}
