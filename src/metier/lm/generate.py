"""Batched generation: left-padded, length-sorted, one random stream a reply, so a batch changes no sample."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

ROWS = 16  # sequences generated together


@dataclasses.dataclass(frozen=True)
class Generated:
    text: str
    tokens: int
    logprob: float
    finish: Literal["stop", "length"]


@dataclasses.dataclass
class _Open:
    """A sequence on its way."""

    chosen: list[int]
    logprob: float
    randomness: torch.Generator | None
    text: str = ""
    finish: Literal["stop", "length"] | None = None


@torch.no_grad()
def generate(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], *, max_tokens: int,
    temperature: float, top_p: float, seed: int, stop: Sequence[str], advance: Callable[[float], None] | None,
) -> list[Generated]:  # fmt: skip
    """A continuation of every prompt (token ids); greedy at temperature 0.

    A reply ends at the model's end-of-turn or at a stop string, which is cut off (finish *stop*), or after
    ``max_tokens`` (finish *length*). Its logprob is the sum over its tokens under the untempered model, in nats.
    """
    replies: list[Generated | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        opened = [_Open([], 0.0, _randomness(seed, i, prompts[i]) if temperature > 0 else None) for i in batch]
        _run(network, tokenizer, [prompts[i] for i in batch], opened, max_tokens, temperature, top_p, stop)
        for i, one in zip(batch, opened, strict=True):
            replies[i] = Generated(one.text, len(one.chosen), one.logprob, one.finish or "length")
        if advance:
            advance(len(batch))
    return [r for r in replies if r is not None]


def _run(
    network: Any, tokenizer: Any, prompts: list[list[int]], opened: list[_Open], max_tokens: int, temperature: float,
    top_p: float, stop: Sequence[str],
) -> None:  # fmt: skip
    device = next(network.parameters()).device
    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    ends = _ends(network, tokenizer)
    cache = None
    for _ in range(max_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = network(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                      use_cache=True, logits_to_keep=1)  # fmt: skip
        cache = out.past_key_values
        scores = torch.log_softmax(out.logits[:, -1].float(), -1)  # [batch, vocab]
        chosen = _choose(scores, opened, temperature, top_p)  # [batch]
        for i, one in enumerate(opened):
            if one.finish is None:
                _take(one, int(chosen[i]), float(scores[i, chosen[i]]), tokenizer, ends, stop)
        if all(one.finish for one in opened):
            break
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones((len(prompts), 1))], dim=1)


def _take(one: _Open, token: int, logprob: float, tokenizer: Any, ends: set[int], stop: Sequence[str]) -> None:
    one.logprob += logprob
    one.chosen.append(token)
    if token in ends:
        one.finish = "stop"
        return
    one.text = tokenizer.decode([t for t in one.chosen if t not in ends], skip_special_tokens=True)
    found = [at for s in stop if (at := one.text.find(s)) >= 0]
    if found:
        one.text, one.finish = one.text[: min(found)], "stop"


def _choose(scores: Tensor, opened: list[_Open], temperature: float, top_p: float) -> Tensor:
    if temperature == 0:
        return scores.argmax(-1)
    p = torch.softmax(scores / temperature, -1)
    if top_p < 1:
        ranked, order = p.sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= top_p  # the one that crosses the border still counts
        p = p.scatter(-1, order, ranked.masked_fill(beyond, 0.0))
    rows = [torch.multinomial(p[i].cpu(), 1, generator=one.randomness) for i, one in enumerate(opened)]
    return torch.cat(rows).to(scores.device)


def _ends(network: Any, tokenizer: Any) -> set[int]:
    """Every id that ends a turn: the tokenizer's, and those the model's generation settings name."""
    named = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return {int(i) for i in found if i is not None}


def _randomness(seed: int, index: int, prompt: list[int]) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{index}:{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
