"""Texts ranked by how near they are to a question: by words in common (BM25), or by meaning (embedding)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import bm25s
import numpy as np

from metier.lm import embed

WORD = re.compile(r"\w\w+")
By = Literal["words", "meaning"]


class Words:
    """By words in common; a text without any is not ranked."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._index = bm25s.BM25()
        self._index.index([words_of(text) for text in texts], show_progress=False)

    def ranked(self, queries: Sequence[str]) -> list[Iterator[int]]:
        """Numbers of the texts for each query, best first; equal ones in the order given."""
        return [self._ranked(words_of(query)) for query in queries]

    def _ranked(self, words: list[str]) -> Iterator[int]:
        if any(word in self._index.vocab_dict for word in words):
            scores = self._index.get_scores(words)
            yield from (int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > 0)


class Meaning:
    """By the cosine of their vectors; every text is ranked."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._vectors = embed.encode([text or "" for text in texts])  # [text, dim]

    def ranked(self, queries: Sequence[str]) -> list[Iterator[int]]:
        """Numbers of the texts for each query, best first; equal ones in the order given."""
        return [self._ranked(vector) for vector in embed.encode(queries)]

    def _ranked(self, vector: np.ndarray) -> Iterator[int]:
        yield from map(int, np.argsort(-(self._vectors @ vector), kind="stable"))


def index(texts: Sequence[str | None], by: By) -> Words | Meaning:
    return Words(texts) if by == "words" else Meaning(texts)


def words_of(text: str | None) -> list[str]:
    return WORD.findall((text or "").lower())
