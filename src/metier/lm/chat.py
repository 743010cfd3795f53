"""What tasks, wraps and evaluation know of a model: a Chat replies and gives log-probabilities.

A Chat keeps nothing between calls. ``TransformersChat`` loads its weights when it is first asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from metier.disk import text_digest
from metier.lm import generate, score, tokens
from metier.lm.generate import Reply as Reply
from metier.lm.generate import Sampling as Sampling
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import ACCESS
from metier.options import Access as Access

Advance = Callable[[float], None]
GREEDY = Sampling()


class Chat(Protocol):
    """A model that talks, whatever stands behind it. ``digest`` changes when its answers may."""

    ROLE: ClassVar[str] = "artefact"

    @property
    def access(self) -> Access: ...

    @property
    def digest(self) -> str: ...

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        """``sampling.n`` replies a conversation, in order; ``advance`` hears of replies done."""
        ...

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        """Of each continuation given its prompt; ``advance`` hears of tokens scored."""
        ...

    def close(self) -> None:
        """Lets go of memory; the next question loads again."""
        ...


class Loaded:
    """What chats of a network share: it is loaded when it is first needed, and let go by ``close``."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(self, digest: str, load: Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]]) -> None:
        self.digest = digest
        self._load = load
        self._loaded: tuple[nn.Module, PreTrainedTokenizerBase] | None = None

    @property
    def loaded(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def close(self) -> None:
        self._loaded = None


class TransformersChat(Loaded):
    """A causal model of transformers, with or without adapter."""

    access: Access = "weights"

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        prompts = [tokens.prompt(self.loaded[1], c) for c in conversations]
        return generate.generate(generate.speaker(*self.loaded), prompts, sampling, advance)

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        with torch.no_grad():
            return score.log_probabilities(*self.loaded, prompts, continuations, window=window, stride=stride,
                                           advance=advance)  # fmt: skip


class Wrapped:
    """A Chat over another one. A wrap inherits and overrides what it changes; what it leaves goes straight through.

    ``facts`` are all that its answers depend on besides the chat: options, digests of data.
    """

    ROLE: ClassVar[str] = "artefact"
    GIVES: ClassVar[Access] = "weights"  # the most access it leaves

    def __init__(self, chat: Chat, *facts: object) -> None:
        self.chat = chat
        self.digest = text_digest(chat.digest, type(self).__module__, *map(str, facts))

    @property
    def access(self) -> Access:
        return min(self.chat.access, self.GIVES, key=ACCESS.index)

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        return self.chat.reply(conversations, sampling, advance)

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        return self.chat.logprobs(prompts, continuations, window=window, stride=stride, advance=advance)

    def close(self) -> None:
        self.chat.close()
