"""Puts the passages that fit a question best before it, from a set of documents.

For asking whether looking things up would do instead of training, and for a chat that must quote its sources. Passages
are found by words in common (BM25), so a question in other words than the documents' finds nothing good. The query is
the prompt or the last turn of the user, never the text that is scored. What is put before it:

    logprobs:  passage ⏎⏎ passage ⏎⏎ prompt            reply:  passage ⏎⏎ passage ⏎⏎ last turn of the user

The best passage stands last, next to the question. A reply's trace names the ids in ``sources``, best first. Without a
word in common there is no passage and the bare chat answers. What does not fit into the model's window is left out,
the worst first.

Options:
    top: passages per question; 0 is the bare chat.
    longest: characters of a passage, at most; it is cut between words.
Raises: MetierError when the data has no text.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

from metier.artefacts import Records
from metier.infer.context import _window
from metier.lm import search
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling, Wrapped
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import Count, MetierError, Natural

OFF = {"top": 0}
GIVES: Access = "logits"


def wrap(chat: Chat, data: Records, *, top: Natural = 1, longest: Count = 1200) -> Chat:
    if top == 0:
        return chat
    if not any(map(search.words_of, data.column("text"))):
        raise MetierError("infer.context.passages: the data has no text to look things up in")
    return Passages(chat, data, top, longest)


class Passages(Wrapped):
    """A Chat that reads before it answers."""

    GIVES = GIVES

    def __init__(self, chat: Chat, data: Records, top: int, longest: int) -> None:
        super().__init__(chat, data.digest, top, longest)
        self.data, self.top, self.longest = data, top, longest

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        window, asked, sources = _window.of(self.chat), [], []
        spare = min(sampling.max_tokens, window.size // 2) if window else 0
        for conversation in conversations:
            last = max((i for i, turn in enumerate(conversation) if turn["role"] == "user"), default=None)
            found = [] if last is None else self.find(conversation[last]["content"])
            turns = self._turns(conversation, last, found)
            while found and window is not None and not window.holds(turns, spare):
                found = found[:-1]
                turns = self._turns(conversation, last, found)
            asked.append(turns)
            sources.append(self._ids(found))
        replies = self.chat.reply(asked, sampling, advance)
        return [
            dataclasses.replace(r, trace={**r.trace, "sources": sources[i // sampling.n]})
            for i, r in enumerate(replies)
        ]

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        room, read = _window.narrowed(self.chat, window), {}
        for prompt, continuation in _window.longest(prompts, continuations).items():
            found = self.find(prompt)
            while found and room is not None and not room.holds(self._before(found) + prompt + continuation, 1):
                found = found[:-1]
            read[prompt] = self._before(found) + prompt
        return self.chat.logprobs(
            [read[p] for p in prompts], continuations, window=window, stride=stride, advance=advance
        )

    def find(self, query: str) -> list[int]:
        """Row numbers of the best passages, best first; equal ones in the order of the data."""
        return list(itertools.islice(self._index.ranked([query])[0], self.top))

    @functools.cached_property
    def _index(self) -> search.Words:
        return search.Words(self.data.column("text"))

    def _turns(self, conversation: Conversation, last: int | None, found: list[int]) -> Conversation:
        """The passages before the ``last`` turn of the user."""
        turns = [dict(turn) for turn in conversation]
        if last is not None:
            turns[last]["content"] = self._before(found) + turns[last]["content"]
        return turns

    def _before(self, found: list[int]) -> str:
        texts = self.data.table.column("text")
        return "".join(f"{shortened(texts[i].as_py(), self.longest)}\n\n" for i in reversed(found))

    def _ids(self, found: list[int]) -> list[str]:
        ids = self.data.table.column("id")
        return [ids[i].as_py() for i in found]


def shortened(text: str, longest: int) -> str:
    """The beginning of a text, cut between words."""
    if len(text) <= longest:
        return text
    cut = text[: longest + 1]
    blank = max(cut.rfind(" "), cut.rfind("\n"))
    return cut[:blank].rstrip() if blank > 0 else text[:longest]
