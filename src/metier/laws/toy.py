"""A language model of two small blocks with a tokenizer of its own, made on the spot, and records to go with it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from metier.artefacts import Model, Records
from metier.disk import files_digest
from metier.lm import load

SENTENCE = "river bridge valve meter open close north south seven eight stands rises falls before after the a of and"
WORDS = SENTENCE.split()
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts(n: int, seed: int = 0, words: int = 40) -> Records:
    """Documents of random words, 10 to ``words`` words long."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        length = int(torch.randint(10, words + 1, (1,), generator=draw))
        picked = torch.randint(len(WORDS), (length,), generator=draw)
        rows.append({"id": f"doc{i}", "text": " ".join(WORDS[int(w)] for w in picked)})
    return Records.from_rows(rows)


def questions(n: int, seed: int = 0) -> Records:
    """Conversations of one question and one reply of differing length."""
    rows = []
    for i, row in enumerate(texts(n, seed, 30)):
        asked, reply = row["text"].split(" ", 1)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        rows.append({"id": f"q{i}", "messages": turns})
    return Records.from_rows(rows)


def write(folder: Path, seed: int = 0, tied: bool = True) -> Model:
    """A transformers folder with a random Llama: 2 blocks of width 32, about 300 words."""
    inner = Tokenizer(models.BPE(unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        extra_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.2,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ))  # fmt: skip
    with load.quiet():
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(folder, files_digest(folder), source="toy")
