"""A scripted writer: a Chat that knows an invented world and errs at a known rate.

So that what writes, filters or judges data can be tried with exact numbers and without a large model. It answers the
questions of its world, and writes questions about a passage of it when asked to. Whether it errs is drawn for each
conversation (and, above temperature 0, each seed and sample), so nothing depends on what else is asked with it.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from typing import ClassVar

from metier.disk import json_text, text_digest
from metier.lm.chat import GREEDY, Access, Advance, Reply, Sampling
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError
from metier.worlds.facts import World

SENTENCE = re.compile(r"(?<=[.?!])\s+")
NUMBER = re.compile(r"\b\d{1,3}\b")
UNKNOWN = "I do not know."
CHATTER = "Sure! Here is what you asked for."


class Scripted:
    """``errors``: share of wrong answers, and of questions that miss their passage; ``broken``: of useless replies."""

    ROLE: ClassVar[str] = "artefact"
    access: Access = "text"

    def __init__(self, world: World, errors: float = 0.15, broken: float = 0.0, number: int = 0) -> None:
        self.world, self.errors, self.broken, self.number = world, errors, broken, number

    @functools.cached_property
    def digest(self) -> str:
        return text_digest("scripted", self.world.digest, str(self.errors), str(self.broken), str(self.number))

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        replies = []
        for conversation in conversations:
            for k in range(sampling.n):
                drawn = (sampling.seed, k) if sampling.temperature else ()
                draw = random.Random(text_digest(self.digest, json_text(conversation), str(drawn)))
                replies.append(_cut(self._say(conversation, draw), sampling))
            if advance:
                advance(sampling.n)
        return replies

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        raise MetierError("the scripted writer only writes: it gives no log-probabilities")

    def close(self) -> None: ...

    def _say(self, conversation: Conversation, draw: random.Random) -> str:
        asked = next((turn["content"] for turn in reversed(conversation) if turn["role"] == "user"), "")
        broken, wrong = draw.random() < self.broken, draw.random() < self.errors
        if broken:
            return CHATTER
        sentences = [s.strip() for line in asked.splitlines() for s in SENTENCE.split(line)]
        question = next((s for s in reversed(sentences) if s in self.world.by_question), None)
        if question is not None:
            fact = self.world.by_question[question]
            return f"{draw.choice(fact.wrong) if wrong else fact.value}."
        if "question" in asked.lower() and any(s in self.world.by_statement for s in sentences):
            return self._questions(asked, sentences, draw)
        return UNKNOWN

    def _questions(self, asked: str, sentences: list[str], draw: random.Random) -> str:
        told = [self.world.by_statement[s] for s in sentences if s in self.world.by_statement]
        request = " ".join(s for s in sentences if s not in self.world.by_statement)
        number = NUMBER.search(request)
        lines = []
        for i in range(int(number[0]) if number else 1):
            fact = draw.choice(self.world.facts) if draw.random() < self.errors else told[i % len(told)]
            lines.append(f"{i + 1}. {draw.choice(fact.questions[:-1])}")
        return "\n".join(lines)


def _cut(text: str, sampling: Sampling) -> Reply:
    """Words count as tokens."""
    found = [at for s in sampling.stop if (at := text.find(s)) >= 0]
    text = text[: min(found)] if found else text
    ends = [m.end() for m in re.finditer(r"\S+", text)]
    if len(ends) > sampling.max_tokens:
        return Reply(text[: ends[sampling.max_tokens - 1]], sampling.max_tokens, None, "length")
    return Reply(text, len(ends), None, "stop")
