"""How much a model can read at once, for wraps that put more before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from metier.lm import pieces, score, tokens
from metier.lm.chat import Chat, TransformersChat, Wrapped
from metier.lm.tokens import Conversation


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a model, in its tokens."""

    size: int
    tokenizer: PreTrainedTokenizerBase

    def holds(self, asked: Conversation | str, spare: int) -> bool:
        """Whether a conversation or a text leaves ``spare`` tokens free."""
        ids = pieces.encode(self.tokenizer, asked) if isinstance(asked, str) else tokens.prompt(self.tokenizer, asked)
        return len(ids) + spare <= self.size


def of(chat: Chat) -> Window | None:
    """That of the model below all wraps; None where it is not known, as behind a server."""
    while isinstance(chat, Wrapped):
        chat = chat.chat
    if not isinstance(chat, TransformersChat):
        return None
    network, tokenizer = chat.loaded
    return Window(score.window_of(network), tokenizer)


def narrowed(chat: Chat, window: int | None) -> Window | None:
    """The same, or the smaller ``window`` that somebody asks for."""
    found = of(chat)
    return dataclasses.replace(found, size=min(found.size, window or found.size)) if found else None


def longest(prompts: Sequence[str], continuations: Sequence[str]) -> dict[str, str]:
    """The longest continuation of each prompt: all of a prompt's are to see the same before it."""
    found: dict[str, str] = {}
    for prompt, continuation in zip(prompts, continuations, strict=True):
        found[prompt] = max(found.get(prompt, ""), continuation, key=len)
    return found
