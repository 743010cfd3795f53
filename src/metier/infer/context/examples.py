"""Puts worked examples before a question, chosen for it from records that have an answer.

For a format that is easier shown than told, and as the arm against training: whatever a few examples give, need not be
learnt. In a reply they are earlier turns, behind the system's; for log-probabilities they are text:

    reply:  [system] question answer … question answer conversation         logprobs:  example ⏎⏎ example ⏎⏎ prompt

The nearest stands last, next to the question: by words in common (BM25), those without any filled up in the order of
the data, or by meaning. A record is never an example for itself: one whose question stands in what is asked, or the
other way round, is passed over. What does not fit into the model's window is left out, the farthest first; a reply's
trace names the ids of the rest in ``examples``, nearest first.

Records have `messages` that end in the assistant's, or `prompt` and `completion`; their system turns are left out.
Prompt and completion are joined as they are where a blank divides them, else by a line break.

Options:
    count: examples a question, at most; 0 is the bare chat.
    choose: the *nearest* to the question, *random* ones drawn for it, or the *first* of the data.
    by: whether near is by *words* or by *meaning*.
    seed: of the random ones.
Raises: MetierError when no record has a question and an answer.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from metier.artefacts import Records, Row
from metier.disk import text_digest
from metier.infer.context import _window
from metier.lm import search
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling, Wrapped
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError, Natural, Seed

OFF = {"count": 0}
GIVES: Access = "logits"
SAME = 4  # words of a question from which on it counts as the same where it stands inside an example's
Choose = Literal["nearest", "random", "first"]


def wrap(
    chat: Chat, data: Records, *, count: Natural = 4, choose: Choose = "nearest", by: search.By = "words",
    seed: Seed = 0,
) -> Chat:  # fmt: skip
    if count == 0:
        return chat
    examples = [found for row in data if (found := _example(row))]
    if not examples:
        raise MetierError("infer.context.examples: no record of the data has a question and an answer")
    return Examples(chat, examples, count, choose, by, seed, data.digest)


@dataclasses.dataclass(frozen=True)
class Example:
    id: str
    turns: Conversation
    text: str  # as it stands before a prompt

    @functools.cached_property
    def question(self) -> str:
        return next(turn["content"] for turn in reversed(self.turns) if turn["role"] == "user")


class Examples(Wrapped):
    """A Chat that is shown how others were answered before it answers."""

    GIVES = GIVES

    def __init__(
        self, chat: Chat, examples: list[Example], count: int, choose: Choose, by: search.By, seed: int, digest: str
    ) -> None:
        super().__init__(chat, digest, count, choose, by, seed)
        self.examples, self.count, self.choose, self.by, self.seed = examples, count, choose, by, seed

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        window, asked, shown = _window.of(self.chat), [], []
        for conversation, found in zip(conversations, self.find([_query(c) for c in conversations]), strict=True):
            while True:
                turns = self._turns(conversation, found)
                spare = min(sampling.max_tokens, window.size // 2) if window else 0
                if not found or window is None or window.holds(turns, spare):
                    break
                found = found[:-1]
            asked.append(turns)
            shown.append([self.examples[i].id for i in found])
        replies = self.chat.reply(asked, sampling, advance)
        return [
            dataclasses.replace(r, trace={**r.trace, "examples": shown[i // sampling.n]}) for i, r in enumerate(replies)
        ]

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        room, read = _window.narrowed(self.chat, window), {}
        longest = _window.longest(prompts, continuations)
        for (prompt, continuation), found in zip(longest.items(), self.find(list(longest)), strict=True):
            while found and room is not None and not room.holds(self._text(found) + prompt + continuation, 1):
                found = found[:-1]
            read[prompt] = self._text(found) + prompt
        return self.chat.logprobs(
            [read[p] for p in prompts], continuations, window=window, stride=stride, advance=advance
        )

    def find(self, queries: Sequence[str]) -> list[list[int]]:
        """Numbers of the examples for each query, nearest first."""
        if self.choose == "nearest":
            orders: Iterable[Iterator[int]] = self._index.ranked(queries)
        elif self.choose == "random":
            orders = map(self._drawn, queries)
        else:
            orders = (iter(range(len(self.examples))) for _ in queries)
        everyone = range(len(self.examples))
        found = []
        for query, order in zip(queries, orders, strict=True):
            each = dict.fromkeys(itertools.chain(order, everyone)) if self.choose == "nearest" else order
            other = (i for i in each if not same(self.examples[i].question, query))
            found.append(list(itertools.islice(other, self.count)))
        return found

    @functools.cached_property
    def _index(self) -> search.Words | search.Meaning:
        return search.index([example.question for example in self.examples], self.by)

    def _drawn(self, query: str) -> Iterator[int]:
        """Drawn for the question, so that its company changes nothing."""
        rng = np.random.default_rng([self.seed, int(text_digest(query)[:12], 16)])
        return map(int, rng.permutation(len(self.examples)))

    def _turns(self, conversation: Conversation, found: list[int]) -> Conversation:
        start = int(bool(conversation) and conversation[0]["role"] == "system")
        shown = [turn for i in reversed(found) for turn in self.examples[i].turns]
        return [dict(turn) for turn in [*conversation[:start], *shown, *conversation[start:]]]

    def _text(self, found: list[int]) -> str:
        return "".join(f"{self.examples[i].text}\n\n" for i in reversed(found))


def same(question: str, query: str) -> bool:
    """Whether an example's question stands in what is asked, or what is asked, if it is long enough, in it."""
    inner, outer = (" ".join(["", *text.lower().split(), ""]) for text in (question, query))
    return inner in outer or (len(query.split()) >= SAME and outer in inner)


def _query(conversation: Conversation) -> str:
    return next((turn["content"] for turn in reversed(conversation) if turn["role"] == "user"), "")


def _example(row: Row) -> Example | None:
    """None for a record without a question, or without an answer at its end."""
    prompt = row.get("prompt") or ""
    turns = list(row.get("messages") or ([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt))
    if row.get("completion") is not None and not row.get("messages"):
        turns.append({"role": "assistant", "content": row["completion"]})
    turns = [{"role": t["role"], "content": t["content"]} for t in turns if t["role"] != "system"]
    if (
        len(turns) < 2
        or turns[0]["role"] != "user"
        or turns[-1]["role"] != "assistant"
        or not turns[0]["content"].strip()
    ):
        return None
    text = turns[0]["content"]
    for turn in turns[1:]:
        blank = text[-1:].isspace() or turn["content"][:1].isspace()
        text += ("" if blank else "\n") + turn["content"]
    spoken = [turn | {"content": turn["content"].strip()} for turn in turns]
    return Example(row["id"], spoken, text.strip())
