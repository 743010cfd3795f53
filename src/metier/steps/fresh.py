"""A small Llama with random weights, made on the spot.

Where a claim is about learning from the beginning, about two models of one vocabulary, or needs training that takes
seconds. Its words are learnt from `data` (byte-level BPE), or they are those of another model. It has the chat template
of ChatML. Pre-train it before you expect sense; for a specialist start from a real model (`model`).

Options:
    layers: blocks.
    width: of the hidden state; the inner width of a block is four times that.
    heads: of attention; they divide the width.
    data: records whose texts and turns teach the vocabulary.
    vocabulary: words that are learnt from `data`.
    words: the model whose vocabulary it takes instead.
    window: longest text in tokens.
    seed: of the weights.
Raises: MetierError when both or neither of `data` and `words` are given, or the heads do not divide the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from metier.artefacts import Model, Records
from metier.disk import files_digest
from metier.lm import load
from metier.options import Count, MetierError, Seed
from metier.store import Work

EXAMPLE = {"layers": 2, "width": 32, "heads": 2, "vocabulary": 300, "data": "$records"}
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Words = Annotated[int, Field(ge=259)]  # the bytes and the marks


def run(
    *, layers: Count = 4, width: Count = 128, heads: Count = 4, data: Records | None = None, vocabulary: Words = 2048,
    words: Model | None = None, window: Count = 1024, seed: Seed = 0, work: Work,
) -> Model:  # fmt: skip
    """A transformers folder in ``work.folder``/model."""
    if (data is None) == (words is None):
        raise MetierError("fresh: needs 'data' to learn its words from, or a model whose 'words' it takes")
    if width % (2 * heads):
        raise MetierError(f"fresh: 'width' must be an even multiple of 'heads', got {width} and {heads}")
    tokenizer = load.tokenizer_of(words) if words else learnt(_texts(data), vocabulary)
    folder = work.folder / "model"
    write(folder, tokenizer, layers=layers, width=width, heads=heads, window=window, seed=seed)
    return Model(folder, files_digest(folder), source="fresh")


def learnt(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the marks of ChatML."""
    inner = Tokenizer(models.BPE(unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=MARKS, show_progress=False, initial_alphabet=alphabet
    ))  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        extra_special_tokens=["<|im_start|>"],
    )  # fmt: skip


def write(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, layers: int, width: int, heads: int, window: int, seed: int
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=window,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ))  # fmt: skip
    with load.quiet():
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _texts(data: Records | None) -> Iterator[str]:
    for row in data or ():
        yield from (row[name] for name in ("text", "prompt", "completion") if isinstance(row.get(name), str))
        yield from (turn["content"] for turn in row.get("messages") or [])
