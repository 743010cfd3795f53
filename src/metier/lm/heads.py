"""Classifiers: a language model with a row of classes in place of words, and the Chat that knows only its labels."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from metier.artefacts import Model
from metier.lm import generate, pieces, score, tokens
from metier.lm.chat import GREEDY, Access, Advance, Loaded, Reply, Sampling
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError

LABELS = "labels.json"  # beside an adapter; a whole model names them in its config
BUDGET = 4096  # tokens of a batch, padding counted


def labels_of(model: Model) -> list[str]:
    """The labels of a classifier, in the order of its classes."""
    if model.base is not None:
        found: list[str] = json.loads((model.path / LABELS).read_text(encoding="utf-8"))
        return found
    names = json.loads((model.path / "config.json").read_text(encoding="utf-8"))["id2label"]
    return [str(names[key]) for key in sorted(names, key=int)]


def attach(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]
) -> tuple[nn.Module, PreTrainedTokenizerBase]:  # fmt: skip
    """The body of a language model under a new head, which finds every label equally likely.

    A linear head learns from zero as well as from noise, and needs no seed. Without a padding token the end of text
    becomes one, since transformers finds the end of a row by it.
    Raises MetierError when the architecture has no classifier, or one with a deeper head.
    """
    body: Any = network
    config = copy.deepcopy(body.config)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise MetierError(f"model: transformers has no classifier of the type '{config.model_type}'")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.device("meta"):
        found: Any = AutoModelForSequenceClassification.from_config(config)
    heads = [name for name, _ in found.named_children() if name != found.base_model_prefix]
    if len(heads) != 1 or not isinstance(getattr(found, heads[0]), nn.Linear):
        raise MetierError(f"model: the classifier of '{config.model_type}' has more than one matrix as its head")
    setattr(found, found.base_model_prefix, body.base_model)
    head = getattr(found, heads[0]).to_empty(device=body.device).to(body.dtype)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return found.eval(), tokenizer


def is_head(network: Any, name: str) -> bool:
    """Whether a tensor of a classifier belongs to its head."""
    return not name.startswith(f"{network.base_model_prefix}.")


def encode(tokenizer: PreTrainedTokenizerBase, given: str | Conversation, length: int) -> list[int]:
    """What a classifier reads: a text with the marks its tokenizer puts around it, or a conversation in its template.

    A conversation of one question is read as its text, so that records with a text and chats mean the same.
    """
    if not isinstance(given, str) and len(given) == 1 and given[0]["role"] == "user":
        given = given[0]["content"]
    if isinstance(given, str):
        found: list[int] = tokenizer(given, truncation=True, max_length=length)["input_ids"]
        return found
    return pieces.encode(tokenizer, tokens.render(tokenizer, given, reply=False))[:length]


class LabelChat(Loaded):
    """A classifier as a Chat: its replies are labels, its confidence is their probability.

    ``logprobs`` gives the log-probability of a continuation that is one of its labels, blanks around it aside.
    Sampling draws labels; ``top_p``, ``stop`` and ``max_tokens`` have nothing to cut.
    Raises MetierError for a continuation that is no label.
    """

    access: Access = "logits"

    def __init__(
        self, digest: str, labels: Sequence[str], load: Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]]
    ) -> None:
        super().__init__(digest, load)
        self.labels = list(labels)

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        replies = []
        for conversation, row in zip(conversations, self.log_p(conversations), strict=True):
            for number in range(sampling.n):
                at = _choose(row, sampling, generate.randomness(sampling.seed, number, conversation))
                logprob = float(row[at])
                replies.append(Reply(self.labels[at], 1, logprob, "stop", float(row[at].exp())))
                if advance:
                    advance(1)
        return replies

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        known = {label.strip(): i for i, label in enumerate(self.labels)}
        for continuation in continuations:
            if continuation.strip() not in known:
                raise MetierError(
                    f"this classifier has no label '{continuation.strip()}'; it has: {', '.join(self.labels)}"
                )
        once = list(dict.fromkeys(prompts))
        rows = dict(zip(once, self.log_p(once), strict=True))
        if advance:
            advance(len(prompts))
        return [
            LogProb(float(rows[p][known[c.strip()]]), 1) for p, c in zip(prompts, continuations, strict=True)
        ]  # fmt: skip

    @torch.no_grad()
    def log_p(self, given: Sequence[str | Conversation]) -> Tensor:
        """Log-probability of every label for texts or conversations: [n, labels], float32."""
        network, tokenizer = self.loaded
        limit = min(score.window_of(network), tokenizer.model_max_length)
        rows = [encode(tokenizer, one, limit) for one in given]
        if not all(rows):
            raise MetierError("a text without any word cannot be classified")
        found = torch.empty(len(rows), len(self.labels))
        for batch in tokens.batches(list(map(len, rows)), BUDGET):
            found[batch] = torch.log_softmax(_logits(network, [rows[i] for i in batch]), -1)
        return found


def _logits(network: Any, rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), network.config.get_text_config().pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    found: Tensor = network(input_ids=ids.to(network.device), attention_mask=mask.to(network.device)).logits
    return found.float().cpu()


def _choose(row: Tensor, sampling: Sampling, draw: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(row.argmax())
    return int(torch.multinomial(torch.softmax(row / sampling.temperature, -1), 1, generator=draw))
