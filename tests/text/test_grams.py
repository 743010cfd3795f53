"""Words as numbers: the same words give the same numbers, and texts are cut where a plain reading cuts them."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metier.text import grams

CHARACTERS = st.one_of(st.characters(), st.sampled_from("aé1 _-’ßİΣ気ーx\0\n\ud800"))
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@given(st.text(CHARACTERS), st.text(CHARACTERS))
def test_a_number_stands_for_each_word(one: str, two: str) -> None:
    plain = [WORD.findall(text.lower()) for text in (one, two)]
    found = [grams.words(text).tolist() for text in (one, two)]
    assert [len(f) for f in found] == [len(p) for p in plain]
    told = dict(zip(plain[0] + plain[1], found[0] + found[1], strict=True))
    assert [[told[w] for w in p] for p in plain] == found and len(set(told.values())) == len(told)


def test_a_long_text_is_cut_like_its_parts() -> None:
    part = "Tale of the valve, told 1,000 times… 気圧 "
    assert np.array_equal(grams.words(part * 2000), np.tile(grams.words(part), 2000))
    assert len(grams.words("x" * 100_000)) == 1 and len(grams.words("x" * 100_000 + " y")) == 2


def test_ngrams_are_word_sequences() -> None:
    a, b, c = (grams.words(word) for word in "abc")
    found = grams.ngrams(grams.words("a b c a b"), 2)
    assert len(grams.distinct(found)) == 3 and found[0] == found[3]
    assert [*a * grams.BASE + b, *b * grams.BASE + c] == [*found[:2]]
    assert [len(grams.ngrams(grams.words(text), 5)) for text in ("a b c d e f", "a b", "…")] == [2, 1, 0]


def test_shingles_are_the_distinct_ones() -> None:
    assert len(grams.shingles("a b c " * 30, 13)) == 3
    assert np.array_equal(grams.shingles("A, b c! " * 5, 13), grams.shingles("a b c " * 5, 13))
