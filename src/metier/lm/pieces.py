"""Text in pieces → tokens of which none runs across a border, and where in the text each stands."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from metier.options import MetierError

CUT = "\ufdd0"  # no character of any text; stands where no token may run across
CONTEXT = 64  # characters before a cut that decide how the text behind it is tokenised: a special token and a word
Tokens = list[tuple[int, int, int]]  # (id, number of its first character, and of the one behind its last)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, without the special tokens a tokenizer puts around it; those written in it are kept."""
    return _ids(_encoded(tokenizer, [text], False)[0])


def cut_up(text: str, cuts: Sequence[int]) -> list[str]:
    """The pieces between the places ``cuts``, which rise."""
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def pieces_ids(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[list[int]]:
    """Token ids of each piece of a text; no token runs across a border or a cut.

    A piece is tokenised as it is behind what precedes it: a sentencepiece model puts a space before a text of its own.
    """
    return [_ids(piece) for piece in _pieces(tokenizer, pieces, False)]


def pieces_spans(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each of the same tokens begins and ends, counted in characters of the joined pieces without their cuts.

    The tokens of one character all have its span. Raises MetierError for a tokenizer that does not tell.
    """
    if not tokenizer.is_fast:
        raise MetierError(f"{type(tokenizer).__name__} does not tell where in a text a token stands")
    return [(start, end) for piece in _pieces(tokenizer, pieces, True) for _, start, end in piece]


def _pieces(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], spans: bool) -> list[Tokens]:
    parts = [(number, part) for number, piece in enumerate(pieces) for part in piece.split(CUT) if part]
    text = "".join(part for _, part in parts)
    starts = list(itertools.accumulate((len(part) for _, part in parts), initial=0))
    contexts = [text[max(0, start - CONTEXT) : start] for start in starts[:-1]]
    joint = _encoded(tokenizer, [c + part for c, (_, part) in zip(contexts, parts, strict=True)], spans)
    ahead = _encoded(tokenizer, contexts, False)
    found: list[Tokens] = [[] for _ in pieces]
    for (number, part), context, start, before, row in zip(parts, contexts, starts[:-1], ahead, joint, strict=True):
        same = _ids(row[: len(before)]) == _ids(before)
        fresh, first = (row[len(before) :], len(context)) if same else (_alone(tokenizer, part, spans), 1)
        found[number] += [(i, start + begin - first, start + end - first) for i, begin, end in fresh]
    return found


def _alone(tokenizer: PreTrainedTokenizerBase, text: str, spans: bool) -> Tokens:
    """Tokens of a text whose first characters would join those before it, as they are behind a line break."""
    line, behind, alone = _encoded(tokenizer, ["\n", "\n" + text, text], spans)
    if _ids(behind[: len(line)]) == _ids(line):
        return behind[len(line) :]
    return [(i, begin + 1, end + 1) for i, begin, end in alone]


def _ids(tokens: Tokens) -> list[int]:
    return [i for i, _, _ in tokens]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], spans: bool) -> list[Tokens]:
    """Spans are all 0 unless they are asked for."""
    if not texts:
        return []
    try:
        found: Any = tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=spans
        )
    except (TypeError, UnicodeEncodeError):  # half of a surrogate pair is no character
        bad = next(t for t in texts if any("\ud800" <= c <= "\udfff" for c in t))
        raise MetierError(f"text with half a character in it cannot be tokenised: {bad[:40]!r}") from None
    if not spans:
        return [[(i, 0, 0) for i in ids] for ids in found["input_ids"]]
    return [
        [(i, start, end) for i, (start, end) in zip(ids, stands, strict=True)]
        for ids, stands in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
