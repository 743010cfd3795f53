"""Text in pieces → tokens of which none runs across a border, and where in the text each begins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from metier.options import MetierError

CUT = "\ufdd0"  # no character of any text; stands where no token may run across
CONTEXT = 64  # characters before a cut that decide how the text behind it is tokenised: a special token and a word
Tokens = list[tuple[int, int]]  # (id, number of its first character)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, without the special tokens a tokenizer puts around it; those written in it are kept."""
    return [i for i, _ in _encoded(tokenizer, [text], False)[0]]


def cut_up(text: str, cuts: Sequence[int]) -> list[str]:
    """The pieces between the places ``cuts``, which rise."""
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def pieces_ids(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[list[int]]:
    """Token ids of each piece of a text; no token runs across a border or a cut.

    A piece is tokenised as it is behind what precedes it: a sentencepiece model puts a space before a text of its own.
    """
    return [[i for i, _ in piece] for piece in _pieces(tokenizer, pieces, False)]


def pieces_places(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[int]:
    """Where each of the same tokens begins, counted in characters of the joined pieces without their cuts.

    Raises MetierError for a tokenizer that does not tell.
    """
    if not tokenizer.is_fast:
        raise MetierError(f"{type(tokenizer).__name__} does not tell where in a text a token stands")
    return [place for piece in _pieces(tokenizer, pieces, True) for _, place in piece]


def _pieces(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], places: bool) -> list[Tokens]:
    parts = [(number, part) for number, piece in enumerate(pieces) for part in piece.split(CUT) if part]
    text = "".join(part for _, part in parts)
    starts = list(itertools.accumulate((len(part) for _, part in parts), initial=0))
    contexts = [text[max(0, start - CONTEXT) : start] for start in starts[:-1]]
    joint = _encoded(tokenizer, [c + part for c, (_, part) in zip(contexts, parts, strict=True)], places)
    ahead = _encoded(tokenizer, contexts, False)
    found: list[Tokens] = [[] for _ in pieces]
    for (number, part), context, start, before, row in zip(parts, contexts, starts[:-1], ahead, joint, strict=True):
        same = [i for i, _ in row[: len(before)]] == [i for i, _ in before]
        fresh, first = (row[len(before) :], len(context)) if same else (_alone(tokenizer, part, places), 1)
        found[number] += [(i, start + place - first) for i, place in fresh]
    return found


def _alone(tokenizer: PreTrainedTokenizerBase, text: str, places: bool) -> Tokens:
    """Tokens of a text whose first characters would join those before it, as they are behind a line break."""
    line, behind, alone = _encoded(tokenizer, ["\n", "\n" + text, text], places)
    if [i for i, _ in behind[: len(line)]] == [i for i, _ in line]:
        return behind[len(line) :]
    return [(i, place + 1) for i, place in alone]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], places: bool) -> list[Tokens]:
    """Places are all 0 unless they are asked for."""
    if not texts:
        return []
    try:
        found: Any = tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=places
        )
    except (TypeError, UnicodeEncodeError):  # half of a surrogate pair is no character
        bad = next(t for t in texts if any("\ud800" <= c <= "\udfff" for c in t))
        raise MetierError(f"text with half a character in it cannot be tokenised: {bad[:40]!r}") from None
    if not places:
        return [[(i, 0) for i in ids] for ids in found["input_ids"]]
    return [
        [(i, start) for i, (start, _) in zip(ids, spans, strict=True)]
        for ids, spans in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
