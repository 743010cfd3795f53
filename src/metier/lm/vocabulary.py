"""Whether models have the same words: what they need to speak with one voice, or to be one model."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from metier.options import MetierError


def same(owner: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    """Every token has the same number in all. Raises MetierError naming the first that has not."""
    (first, known), *others = ((name, tokenizer.get_vocab()) for name, tokenizer in tokenizers.items())
    for name, vocabulary in others:
        token = first_difference(known, vocabulary) or first_difference(vocabulary, known)
        if token is not None:
            raise MetierError(
                f"{owner}: '{first}' and '{name}' have other tokens: {token!r} is "
                f"{_number(known, token)} in the one and {_number(vocabulary, token)} in the other"
            )


def within(owner: str, tokenizers: Mapping[str, PreTrainedTokenizerBase], whole: str) -> None:
    """All others may lack tokens that ``whole`` has. Raises MetierError naming the first that is another one there."""
    known = tokenizers[whole].get_vocab()
    for name, tokenizer in tokenizers.items():
        token = first_difference(tokenizer.get_vocab(), known)
        if token is not None:
            raise MetierError(
                f"{owner}: '{name}' has the token {token!r}, which is {_number(known, token)} in '{whole}'; the result "
                f"has the tokens of '{whole}', so the others may have no more"
            )


def first_difference(one: Mapping[str, int], other: Mapping[str, int]) -> str | None:
    """The token of the lowest number in ``one`` that is missing in ``other`` or has another number there."""
    return min((t for t, i in one.items() if other.get(t) != i), key=lambda t: (one[t], t), default=None)


def _number(vocabulary: Mapping[str, int], token: str) -> str:
    return f"number {vocabulary[token]}" if token in vocabulary else "missing"
