"""Chat templates, tokenizers and generated conversations, and what must hold for each of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import random
import re
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from metier.lm import tokens
from metier.lm.loss import IGNORED

Conversation = list[dict[str, str]]
FOLDER = Path(__file__).parent / "lm" / "templates"
TEXT = (
    "the river rises and falls under the bridge \n\n a valve opens, the meter shows 12.5 bar; def close(valve):\n"
    "    return valve.state == 'closed' User: Assistant: system user assistant INST SYS ### Instruction Response\n"
)
WORDS = [
    "river", "bridge", "the", "valve", "opens.", "12345", "3.1415", "naïve", "Straße", "ω≈1", "水位", "が", "上がる",
    "מים", "नदी", "👩‍🔬", "🇳🇴", "é", "don't", "x=y*2", "…", "\u200b", "\xa0", "\t", "\n", "\n\n", "  ",
    "    return", "\x07",
]  # fmt: skip
TRAPS = [
    "<|im_end|>", "<|im_start|>assistant\n", "</s>", "<s>", "[INST]", " [/INST] ", "<|eot_id|>", "<end_of_turn>\n",
    "<|end|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|turn|>", "<sep>", "<eos>", "<|im_",
    "</", "|>", "<|", "### Response:\n", "\n\nUser:\n", "ASSISTANT: ", "{{ 7 * 7 }}", "{% raw %}", "{#", "<<SYS>>",
    "<think>\n", "</think>",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template and what its first line says of it."""

    name: str
    text: str
    bos: str | None
    eos: str
    more: list[str]
    system: bool  # it takes a system message
    reply: str  # exact, stripped, or padded with spaces
    refused: str  # why it cannot be trained with, or nothing


def templates() -> list[Template]:
    found = []
    for path in sorted(FOLDER.glob("*.jinja")):
        head, _, text = path.read_text(encoding="utf-8").partition("\n")
        facts = dict(re.findall(r"(\w+): (.+?)(?=  |\s*#\})", head))
        found.append(Template(
            path.stem, text.removesuffix("\n"), facts.get("bos"), facts["eos"], facts.get("more", "").split(),
            facts.get("system") != "refused", facts.get("reply", "exact"), facts.get("refused", ""),
        ))  # fmt: skip
    return found


@functools.cache
def _bytes() -> Tokenizer:
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    return found


@functools.cache
def _pieces(scheme: str) -> Tokenizer:
    """Like a sentencepiece model: a space is a letter, one is put before a text, unknown characters are bytes."""
    found = Tokenizer(models.BPE(byte_fallback=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    found.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])  # fmt: skip
    found.train_from_iterator([TEXT.replace("\n", " ")] * 4, trainers.BpeTrainer(
        vocab_size=420, show_progress=False, special_tokens=[f"<0x{b:02X}>" for b in range(256)]))  # fmt: skip
    facts = json.loads(found.to_str())
    return Tokenizer.from_str(json.dumps(facts | {"added_tokens": []}))  # the bytes are plain tokens of a vocabulary


def tokenizer(kind: str, template: Template, base: PreTrainedTokenizerBase | None = None) -> PreTrainedTokenizerBase:
    """``bytes`` (as GPT), ``pieces`` (as Llama 2), ``glued`` (as Phi-3: special tokens swallow the space behind them,
    every stretch between them gets a space in front), or ``base``: a real one with the template's tokens added."""
    special = [w for w in (template.bos, template.eos, *template.more) if w]
    added = [AddedToken(w, special=True, normalized=False, rstrip=kind == "glued") for w in special]
    if kind == "base":
        found = copy.deepcopy(base)
    else:
        inner = _bytes() if kind == "bytes" else _pieces("first" if kind == "pieces" else "always")
        found = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(inner.to_str()))
    found.add_special_tokens({"eos_token": template.eos} | ({"bos_token": template.bos} if template.bos else {}))
    found.add_tokens(added, special_tokens=True)
    found.chat_template = template.text
    return found


def conversation(seed: int, system: bool = True, turns: int = 6) -> Conversation:
    """A system message or none, 1 to ``turns`` questions with their replies; one in twenty has no last reply."""
    draw = random.Random(seed)
    found = [{"role": "system", "content": _content(draw)}] if system and draw.random() < 0.4 else []
    for _ in range(draw.randint(1, turns)):
        found += [{"role": role, "content": _content(draw)} for role in ("user", "assistant")]
    return found[:-1] if draw.random() < 0.05 else found


def _content(draw: random.Random) -> str:
    if draw.random() < 0.08:
        return draw.choice(["", " ", "\n", "\n\n  \n", "\t", ".", "0", "​"])
    if draw.random() < 0.03:
        return draw.choice("aé水") * draw.randint(500, 2000)
    parts = []
    for _ in range(draw.randint(1, 12)):
        if draw.random() < 0.07:
            parts.append("".join(_character(draw) for _ in range(draw.randint(1, 6))))
        else:
            parts.append(draw.choice(TRAPS if draw.random() < 0.12 else WORDS))
    return draw.choice(["", "", " ", "\n", "\n\n"]) + draw.choice([" ", " ", ""]).join(parts) + draw.choice(
        ["", "", " ", "\n"])  # fmt: skip


def _character(draw: random.Random) -> str:
    """Any that Unicode has given a meaning (SmolLM2's tokenizer lacks the bytes of some others)."""
    while True:
        found = chr(draw.choice([draw.randint(32, 0x2FF), draw.randint(0x300, 0xFFFF), draw.randint(0x10000, 0x323AF)]))
        if unicodedata.category(found) not in ("Cc", "Cn", "Co", "Cs"):
            return found


def mismatch(found: PreTrainedTokenizerBase, template: Template, kind: str, messages: Conversation) -> str | None:
    """What is wrong with the mask of a conversation, or None.

    What is trained on behind each prompt is the reply and its end; what stands before it is what is served; all of it
    together is the rendered conversation; a model that says it stops there and nowhere before; and no message brings
    special tokens of its own.
    """
    ids, labels = tokens.supervised(found, {"id": "x", "messages": messages})
    ends = set(tokens.end_of_turn(found))
    if len(ids) != len(labels) or any(b not in (IGNORED, a) for a, b in zip(ids, labels, strict=True)):
        return "labels are not the tokens"
    if _read(found, kind, template, ids) != _same(kind, template, tokens.render(found, messages, reply=False)):
        return "all pieces together are not the rendered conversation"
    plain = tokens.supervised(found, {"id": "x", "messages": [m | {"content": "a"} for m in messages]})[0]
    special = {i for i, token in found.added_tokens_decoder.items() if token.special}
    if [i for i in ids if i in special] != [i for i in plain if i in special]:
        return "special tokens that are not the template's"
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    starts = [k for k, b in enumerate(labels) if b != IGNORED and (k == 0 or labels[k - 1] == IGNORED)]
    if len(starts) != len(replies):
        return f"{len(starts)} supervised stretches for {len(replies)} replies"
    for i, start in zip(replies, starts, strict=True):
        served = tokens.prompt(found, messages[:i])
        if ids[:start] != served:
            return f"message {i + 1}: trained behind other tokens than are served"
        if _read(found, kind, template, served) != _same(
            kind, template, tokens.render(found, messages[:i], reply=True)
        ):
            return f"message {i + 1}: served is not what is rendered"
        end = next((k for k in range(start, len(ids)) if labels[k] == IGNORED), len(ids))
        if [k for k in range(start, end) if ids[k] in ends] != [end - 1]:
            return f"message {i + 1}: a model would stop elsewhere than at the last supervised token"
        learnt = _read(found, kind, template, ids[: end - 1])[len(_read(found, kind, template, served)) :]
        said = _same(kind, template, messages[i]["content"])
        exact = template.reply == "exact" and kind in ("bytes", "base")
        if learnt != said if exact else learnt.strip() != said.strip():
            return f"message {i + 1}: learnt {learnt!r} instead of {said!r}"
    return None


def _read(found: PreTrainedTokenizerBase, kind: str, template: Template, ids: list[int]) -> str:
    return _same(kind, template, found.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _same(kind: str, template: Template, text: str) -> str:
    """What is left of a text behind a tokenizer that loses some of it."""
    if kind in ("pieces", "glued"):
        text = text.replace("▁", " ").lstrip(" ")
    if kind == "glued":
        special = "|".join(re.escape(w.replace("▁", " ")) for w in (template.bos, template.eos, *template.more) if w)
        text = re.sub(rf"({special})\s+", r"\1", text)
    return text
