"""Refuses where the reply is not sure enough; finds from where on replies can be trusted.

For a specialist that should rather say nothing than something wrong. How sure a reply is, it tells itself (its
`confidence`); where it does not, the geometric mean of its tokens' probabilities stands for it, which a model gives
that tells log-probabilities. It says how usual the words are, not whether they are true, so take the threshold from
replies that were graded: `guard.confidence.fit` reads a report of `evaluate.generation` on dev rows. A refusal keeps
tokens, log-probability and confidence of what it withholds. Log-probabilities go through unchanged.

    confidence = exp(Σ log p(token) / tokens);   refused when confidence < at_least
    fit: the lowest of ten thresholds at which a bound of the share of wrong answers stays under the risk

Options:
    at_least: confidence a reply must have; 0 is the bare chat; what `fit` found when not given.
    says: the words in place of a reply.
    chat: whose rows of the report to read; needed when it has several.
    metric: the graded measure, as ``task.measure``.
    right: grade from which on a reply counts as right.
    risk: share of wrong answers among those given, at most.
    error: probability that the promise of the risk does not hold.
Raises: MetierError when the chat tells nothing of its confidence, or no threshold keeps the risk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from metier import stats
from metier.artefacts import Part, Report, Row
from metier.disk import text_digest, write_json
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling, Wrapped
from metier.lm.tokens import Conversation
from metier.options import MetierError, Share, unknown
from metier.store import Work

NEEDS = {"access": "top-k"}
GIVES: Access = "logits"
OFF = {"at_least": 0}
EXAMPLE = {"at_least": 0.2, "report": "$graded", "chat": "base", "metric": "general.form", "risk": 1.0}
NAME = "guard.confidence"
Chance = Annotated[float, Field(gt=0, lt=1)]


def wrap(
    chat: Chat, part: Part | None = None, *, at_least: Share | None = None,
    says: str = "I am not sure enough to answer that.",
) -> Chat:  # fmt: skip
    if at_least is None:
        if part is None:
            raise MetierError(f"{NAME}: needs 'at_least', or the part that {NAME}.fit makes")
        at_least = float(part.notes["at_least"])
    return Sure(chat, at_least, says) if at_least > 0 else chat


def fit(
    report: Report, *, metric: str, chat: str | None = None, right: Share = 0.5, risk: Share = 0.1,
    error: Chance = 0.05, work: Work,
) -> Part:  # fmt: skip
    """Notes of the Part: at_least, and n, answered and wrong among the rows it was found on."""
    grades, confidence = _graded(report, metric, chat)
    good = [float(grades[i] >= right) for i in confidence]
    found = stats.trusted_from(list(confidence.values()), good, risk, error)
    if found is None:
        raise MetierError(
            f"{NAME}: no confidence keeps the risk under {risk:g}: of {len(good)} replies {sum(good):.0f} are right; "
            "allow more risk, or grade more replies"
        )
    answered = [g for g, c in zip(good, confidence.values(), strict=True) if c >= found]
    notes = {"at_least": found, "n": len(good), "answered": len(answered), "wrong": len(answered) - int(sum(answered)),
             "risk": risk, "metric": metric}  # fmt: skip
    folder = work.folder / "part"
    write_json(folder / "threshold.json", notes)
    return Part(folder, f"{NAME}.fit", text_digest(str(notes)), notes)


class Sure(Wrapped):
    """A Chat that withholds replies it is not sure of."""

    GIVES = GIVES

    def __init__(self, chat: Chat, at_least: float, says: str) -> None:
        super().__init__(chat, at_least, says)
        self.at_least, self.says = at_least, says

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        return [self._judged(r) for r in self.chat.reply(conversations, sampling, advance)]

    def _judged(self, reply: Reply) -> Reply:
        if reply.refused:  # by a guard below, in its own words
            return reply
        sure = reply.certainty
        if sure is None:
            raise MetierError(
                f"{NAME}: the chat tells no log-probability of its replies, so nobody knows how sure it is"
            )
        if sure >= self.at_least:
            return dataclasses.replace(reply, confidence=sure)
        return dataclasses.replace(reply, text=self.says, confidence=sure, refused=True)


def _graded(report: Report, metric: str, chat: str | None) -> tuple[dict[str, float], dict[str, float]]:
    """Grade and confidence of every reply, by its id."""
    rows: dict[tuple[str, str], dict[str, Row]] = {}
    for row in report.rows.to_pylist():
        rows.setdefault((row["chat"], f"{row['task']}.{row['measure']}"), {})[row["id"]] = row
    chats = {c for c, _ in rows}
    if chat is None and len(chats) > 1:
        raise MetierError(f"{NAME}: the report has several chats ({', '.join(sorted(chats))}); name one as 'chat'")
    name = chat or next(iter(chats), "")
    for wanted, known, what in ((name, chats, "chat"), (metric, {m for c, m in rows if c == name}, "metric")):
        if wanted not in known:
            raise unknown(NAME, wanted, known, what)
    sure = rows.get((name, f"{metric}.confidence"))
    if sure is None:
        raise MetierError(f"{NAME}: the report tells no confidence of '{metric}'; evaluate.generation does")
    grades = rows[name, metric]
    return {i: r["value"] for i, r in grades.items()}, {i: sure[i]["value"] for i in grades if i in sure}
