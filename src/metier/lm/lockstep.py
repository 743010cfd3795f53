"""Several models with one voice: each reads with its own mask and cache, one token is chosen for all.

What the models say is made one by a formula ``combine({name: logits}) -> logits``; the very same formula acts in
``reply`` and in ``logprobs``. So a method that decodes with several models is a pure function of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from metier.disk import text_digest
from metier.lm import generate, score, tokens, vocabulary
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling, TransformersChat
from metier.lm.generate import NetworkRows, Speaker
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError

Combine = Callable[[dict[str, Tensor]], Tensor]  # float32 [n, vocab] of each → [n, vocab] of all


class Lockstep:
    """A Chat of the models in ``chats``. The first one's template, tokenizer and ends of turn are everybody's.

    ``facts`` are all that ``combine`` depends on. Raises MetierError, when first asked, unless all have the same tokens
    with the same numbers.
    """

    ROLE: ClassVar[str] = "artefact"
    access: Access = "logits"

    def __init__(self, owner: str, chats: Mapping[str, Chat], combine: Combine, *facts: object) -> None:
        self.owner, self.combine = owner, combine
        self.members: dict[str, TransformersChat] = {}
        for name, chat in chats.items():
            if not isinstance(chat, TransformersChat):
                raise MetierError(f"{owner}: '{name}' is no model with its weights at hand, so it cannot go in step")
            self.members[name] = chat
        names = [part for name, chat in self.members.items() for part in (name, chat.digest)]
        self.digest = text_digest(owner, *names, *map(str, facts))
        self._checked = False

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        voices = [generate.speaker(*chat.loaded) for chat in self._same_words().values()]
        first = voices[0]
        joint = Speaker(
            self._begin, first.tokenizer, first.ends, min(v.window for v in voices), min(v.together for v in voices)
        )
        prompts = [tokens.prompt(first.tokenizer, conversation) for conversation in conversations]
        return generate.generate(joint, prompts, sampling, advance)

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        members = self._same_words()
        networks = [chat.loaded[0] for chat in members.values()]
        tokenizer = next(iter(members.values())).loaded[1]
        return score.joint(networks, self._joined, tokenizer, prompts, continuations, window=window, stride=stride,
                           advance=advance)  # fmt: skip

    def close(self) -> None:
        for chat in self.members.values():
            chat.close()

    def _same_words(self) -> dict[str, TransformersChat]:
        if not self._checked:
            vocabulary.same(self.owner, {name: chat.loaded[1] for name, chat in self.members.items()})
            self._checked = True
        return self.members

    def _begin(self, prompts: list[list[int]]) -> _JointRows:
        return _JointRows([NetworkRows(chat.loaded[0], prompts) for chat in self.members.values()], self._joined)

    def _joined(self, logits: list[Tensor]) -> Tensor:
        words = min(one.shape[-1] for one in logits)  # a table may be padded beyond the last token
        return self.combine({name: one[..., :words] for name, one in zip(self.members, logits, strict=True)})


class _JointRows:
    """Rows of all models, one choice for each row."""

    def __init__(self, rows: Sequence[NetworkRows], joined: Callable[[list[Tensor]], Tensor]) -> None:
        self.rows, self.joined = rows, joined

    @torch.no_grad()
    def logits(self) -> Tensor:
        found = [rows.logits().float() for rows in self.rows]
        return self.joined([one.to(found[0].device) for one in found])

    def take(self, chosen: Tensor, kept: Sequence[int]) -> None:
        for rows in self.rows:
            rows.take(chosen, kept)
