"""How much a model can read at once, for wraps that put more before it."""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from metier.lm import score, tokens
from metier.lm.chat import Chat, TransformersChat, Wrapped
from metier.lm.tokens import Conversation


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a model, in its tokens."""

    size: int
    tokenizer: PreTrainedTokenizerBase

    def holds(self, asked: Conversation | str, spare: int) -> bool:
        """Whether a conversation or a text leaves ``spare`` tokens free."""
        ids = tokens.encode(self.tokenizer, asked) if isinstance(asked, str) else tokens.prompt(self.tokenizer, asked)
        return len(ids) + spare <= self.size


def of(chat: Chat) -> Window | None:
    """That of the model below all wraps; None where it is not known, as behind a server."""
    while isinstance(chat, Wrapped):
        chat = chat.chat
    if not isinstance(chat, TransformersChat):
        return None
    network, tokenizer = chat.loaded
    return Window(score.window_of(network), tokenizer)
