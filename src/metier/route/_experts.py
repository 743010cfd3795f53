"""Several Chats behind one: each question goes to the expert that is picked for it, each expert answers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from metier.disk import text_digest
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import ACCESS

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Pick:
    """Who answers, and what the reply's trace tells of the choice."""

    expert: str
    why: dict[str, Any] = dataclasses.field(default_factory=dict)


class Experts:
    """A router inherits and picks; ``facts`` are all that its picks depend on besides the chats.

    One question keeps one expert from its first to its last token. A conversation is picked for by the turns of its
    user, a text by its prompt: what is to be scored must not choose who scores it.
    """

    ROLE: ClassVar[str] = "artefact"
    GIVES: ClassVar[Access] = "logits"  # there is no one network inside

    def __init__(self, chats: Mapping[str, Chat], *facts: object) -> None:
        self.chats = dict(sorted(chats.items()))
        named = [f"{name} {chat.digest}" for name, chat in self.chats.items()]
        self.digest = text_digest(type(self).__module__, *named, *map(str, facts))

    def pick(self, questions: Sequence[str]) -> list[Pick]:
        """For each question, whatever else is asked."""
        raise NotImplementedError

    @property
    def access(self) -> Access:
        return min([self.GIVES, *(chat.access for chat in self.chats.values())], key=ACCESS.index)

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        picks = self.pick([spoken(conversation) for conversation in conversations])
        found = _each(picks, lambda name, mine: _groups(
            self.chats[name].reply([conversations[i] for i in mine], sampling, advance), sampling.n
        ))  # fmt: skip
        return [
            dataclasses.replace(reply, trace={**reply.trace, "expert": pick.expert, **pick.why})
            for pick, replies in zip(picks, found, strict=True) for reply in replies
        ]  # fmt: skip

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        different = list(dict.fromkeys(prompts))
        known = dict(zip(different, self.pick(different), strict=True))
        return _each([known[prompt] for prompt in prompts], lambda name, mine: self.chats[name].logprobs(
            [prompts[i] for i in mine], [continuations[i] for i in mine], window=window, stride=stride, advance=advance
        ))  # fmt: skip

    def close(self) -> None:
        for chat in self.chats.values():
            chat.close()


def spoken(conversation: Conversation) -> str:
    """What the user said, the last turn first: a question back ("and why?") is still about the one before."""
    return "\n".join(turn["content"] for turn in reversed(conversation) if turn["role"] == "user")


def _each(picks: Sequence[Pick], ask: Callable[[str, list[int]], list[T]]) -> list[T]:
    """Every expert asked once, with the numbers of its questions; answers in the order of the questions."""
    found: dict[int, T] = {}
    for name in sorted({pick.expert for pick in picks}):
        mine = [i for i, pick in enumerate(picks) if pick.expert == name]
        found |= dict(zip(mine, ask(name, mine), strict=True))
    return [found[i] for i in range(len(picks))]


def _groups(replies: list[Reply], n: int) -> list[list[Reply]]:
    return [replies[i : i + n] for i in range(0, len(replies), n)]
