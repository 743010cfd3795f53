"""What tasks, wraps and evaluation know of a model: a Chat replies and gives log-probabilities.

A Chat keeps nothing between calls. ``TransformersChat`` loads its weights when it is first asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from metier.lm import generate, score, tokens
from metier.lm.generate import Reply as Reply
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation

Access = Literal["text", "top-k", "logits", "weights"]
Advance = Callable[[float], None]


class Chat(Protocol):
    """A model that talks, whatever stands behind it. ``digest`` changes when its answers may."""

    ROLE: ClassVar[str] = "artefact"

    @property
    def access(self) -> Access: ...

    @property
    def digest(self) -> str: ...

    def reply(
        self, conversations: Sequence[Conversation], *, max_tokens: int = 256, temperature: float = 0.0,
        top_p: float = 1.0, n: int = 1, seed: int = 0, stop: Sequence[str] = (), advance: Advance | None = None,
    ) -> list[Reply]:  # fmt: skip
        """``n`` replies a conversation, in order."""
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


class TransformersChat:
    """A causal model of transformers, with or without adapter."""

    ROLE: ClassVar[str] = "artefact"
    access: Access = "weights"

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

    def reply(
        self, conversations: Sequence[Conversation], *, max_tokens: int = 256, temperature: float = 0.0,
        top_p: float = 1.0, n: int = 1, seed: int = 0, stop: Sequence[str] = (), advance: Advance | None = None,
    ) -> list[Reply]:  # fmt: skip
        network, tokenizer = self.loaded
        prompts = [tokens.encode(tokenizer, tokens.render(tokenizer, c, reply=True)) for c in conversations]
        return generate.generate(network, tokenizer, prompts, max_tokens=max_tokens, temperature=temperature,
                                 top_p=top_p, n=n, seed=seed, stop=stop, advance=advance)  # fmt: skip

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        with torch.no_grad():
            return score.log_probabilities(*self.loaded, prompts, continuations, window=window, stride=stride,
                                           advance=advance)  # fmt: skip
