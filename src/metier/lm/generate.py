"""Batched generation: left-padded, length-sorted, one random stream a reply, so a batch changes no sample.

Batches differ in the last digits of their logits, as all matrix products of other shapes do: where two tokens are
that close, another batch may pick the other one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from peft import PeftModel, PromptLearningConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from metier.lm import score, tokens
from metier.options import MetierError

ROWS = 16  # sequences generated together
TOKENS = 16384  # … and how many tokens they may have in the end: their keys and values are kept


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How replies are drawn: `n` each, of at most `max_tokens`, greedy at temperature 0, cut at a stop string."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a Chat answered.

    ``logprob`` is the sum over its tokens in nats (None where the model does not tell), ``confidence`` how sure it is
    that the reply is right (0 to 1), ``refused`` whether a guard put its own words in place of an answer; ``trace``
    tells of sources and routes.
    """

    text: str
    tokens: int
    logprob: float | None
    finish: Literal["stop", "length"]
    confidence: float | None = None
    refused: bool = False
    trace: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def certainty(self) -> float | None:
        """``confidence``, or where nobody set it the geometric mean of the probabilities of its tokens."""
        if self.confidence is not None or self.logprob is None:
            return self.confidence
        return math.exp(self.logprob / self.tokens) if self.tokens else 0.0


@dataclasses.dataclass
class _Open:
    """A reply on its way."""

    prompt: list[int]
    room: int  # tokens it may have
    randomness: torch.Generator
    chosen: list[int] = dataclasses.field(default_factory=list)
    logprob: float = 0.0
    text: str = ""
    finish: Literal["stop", "length"] = "length"


class Rows(Protocol):
    """Sequences on their way: what comes next in each, and what was chosen."""

    def logits(self) -> Tensor:
        """Of the next token: [batch, vocab]. Asked once between two ``take``s."""
        ...

    def take(self, chosen: Tensor, kept: Sequence[int]) -> None:
        """Every row goes on with its ``chosen`` token [batch]; only the rows ``kept`` stay."""
        ...


@dataclasses.dataclass(frozen=True)
class Speaker:
    """What replies are generated with: a network, or several with one voice."""

    begin: Callable[[list[list[int]]], Rows]  # rows that go on from these token ids
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]  # tokens that end a reply
    window: int
    together: int  # rows it may be given at once


def speaker(network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Speaker:
    """One network's own voice."""
    # Peft counts positions itself, so padding would move a text away from the tokens in front of it.
    together = 1 if _in_front(network) else ROWS
    return Speaker(
        lambda prompts: NetworkRows(network, prompts), tokenizer, _ends(network, tokenizer),
        score.window_of(network), together,
    )  # fmt: skip


@torch.no_grad()
def generate(
    voice: Speaker, prompts: Sequence[list[int]], sampling: Sampling, advance: Callable[[float], None] | None = None
) -> list[Reply]:
    """``sampling.n`` continuations of every prompt (token ids), in order.

    A reply ends at the model's end of turn or at a stop string, which is cut off (finish *stop*), or after
    ``max_tokens`` or at the end of the model's window (finish *length*). Tokens and logprob (nats, of the untempered
    model) count all that was chosen, the token that ended it included. A sample depends on seed, prompt and its number
    among the ``n``, not on what else is asked. ``advance`` hears of replies done.
    Raises MetierError when a prompt is empty or fills the model's window.
    """
    longest, window = max(map(len, prompts), default=0), voice.window
    if longest >= window:
        raise MetierError(f"reply: a conversation of {longest} tokens leaves no room in the model's window of {window}")
    if not all(prompts):
        raise MetierError("reply: a conversation without any text cannot be answered")
    opened = [
        _Open(prompt, min(sampling.max_tokens, window - len(prompt)), randomness(sampling.seed, k, prompt))
        for prompt in prompts for k in range(sampling.n)
    ]  # fmt: skip
    order = sorted(range(len(opened)), key=lambda i: len(opened[i].prompt))
    rows = max(1, min(voice.together, ROWS, TOKENS // max(1, longest + sampling.max_tokens)))
    for start in range(0, len(order), rows):
        batch = [opened[i] for i in order[start : start + rows]]
        _run(voice, [one for one in batch if one.room], sampling)
        if advance:
            advance(len(batch))
    return [Reply(o.text, len(o.chosen), o.logprob, o.finish) for o in opened]


def _run(voice: Speaker, going: list[_Open], sampling: Sampling) -> None:
    if not going:
        return
    rows = voice.begin([one.prompt for one in going])
    while going:
        scores = torch.log_softmax(rows.logits().float(), -1)  # [batch, vocab]
        chosen = _choose(scores, going, sampling.temperature, sampling.top_p)  # [batch]
        values = scores.gather(-1, chosen[:, None])[:, 0].tolist()
        for one, token, value in zip(going, chosen.tolist(), values, strict=True):
            _take(one, token, value, voice.tokenizer, voice.ends, sampling.stop)
        kept = [i for i, one in enumerate(going) if one.finish == "length" and len(one.chosen) < one.room]
        going = [going[i] for i in kept]
        if going:
            rows.take(chosen, kept)


class NetworkRows:
    """Rows of one network, padded on the left, with its cache."""

    def __init__(self, network: Any, prompts: list[list[int]]) -> None:
        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        device = next(network.parameters()).device
        self.network, self.ids, self.mask = network, ids.to(device), mask.to(device)
        self.cache: Any = None
        self.front = _in_front(network)
        self.causal = network.get_base_model() if isinstance(network, PeftModel) else network
        # The logits of a whole prompt would be the largest tensor of all.
        keeps = "logits_to_keep" in inspect.signature(self.causal.forward).parameters
        self.last = {"logits_to_keep": 1} if keeps else {}

    def logits(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        where = {"position_ids": positions} if self.cache is not None or not self.front else {}
        out = self.network(input_ids=self.ids, attention_mask=self.mask, past_key_values=self.cache, use_cache=True,
                           **where, **self.last)  # fmt: skip
        if self.cache is None and self.front:  # from now on they are in the cache
            self.network = self.causal
            self.mask = torch.cat([self.mask.new_ones((len(self.mask), self.front)), self.mask], dim=1)
        self.cache = out.past_key_values
        found: Tensor = out.logits[:, -1]
        return found

    def take(self, chosen: Tensor, kept: Sequence[int]) -> None:
        self.ids = chosen[:, None].to(self.mask.device)
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.mask), 1))], dim=1)
        if len(kept) < len(self.ids):
            rows = torch.tensor(kept, dtype=torch.long, device=self.mask.device)
            self.ids, self.mask = self.ids[rows], self.mask[rows]
            self.cache.batch_select_indices(rows)


def _take(one: _Open, token: int, value: float, tokenizer: Any, ends: frozenset[int], stop: Sequence[str]) -> None:
    one.logprob += value
    one.chosen.append(token)
    if token in ends:
        one.finish = "stop"
    if stop or token in ends or len(one.chosen) == one.room:
        one.text = tokenizer.decode([t for t in one.chosen if t not in ends], skip_special_tokens=True)
    found = [at for s in stop if (at := one.text.find(s)) >= 0]
    if found:
        one.text, one.finish = one.text[: min(found)], "stop"


def _choose(scores: Tensor, going: list[_Open], temperature: float, top_p: float) -> Tensor:
    if temperature == 0:
        return scores.argmax(-1)
    p = torch.softmax(scores / temperature, -1)
    if top_p < 1:
        ranked, order = p.sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= top_p  # the one that crosses the border still counts
        beyond[:, 0] = False
        p = p.scatter(-1, order, ranked.masked_fill(beyond, 0.0))
    p = p.cpu()  # the generators live there, so that a sample is the same on every device
    rows = [torch.multinomial(p[i], 1, generator=one.randomness) for i, one in enumerate(going)]
    return torch.cat(rows).to(scores.device)


def _in_front(network: Any) -> int:
    """Virtual tokens that an adapter puts before every text."""
    config = network.active_peft_config if isinstance(network, PeftModel) else None
    return config.num_virtual_tokens if isinstance(config, PromptLearningConfig) else 0


def _ends(network: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a reply: the tokenizer's and the template's, and those the generation settings name."""
    settings = network.generation_config
    named = settings.eos_token_id if settings is not None else None
    more = named if isinstance(named, list) else [] if named is None else [named]
    return frozenset({*tokens.end_of_turn(tokenizer), *map(int, more)})


def randomness(*parts: object) -> torch.Generator:
    """A stream of its own for everything the parts name."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
