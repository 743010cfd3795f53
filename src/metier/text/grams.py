"""Words and their n-grams as 64-bit numbers, so that texts can be compared by what they have in common.

A word is a run of letters and digits in lower case; a Chinese or Japanese character is a word by itself. A number is a
polynomial in an odd constant, modulo 2^64: of a word in its characters, of an n-gram in its words.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

BASE = np.uint64(0x9E3779B97F4A7C15)
BACK = np.uint64(pow(int(BASE), -1, 1 << 64))
AT_ONCE = 1 << 16  # characters, so that a giant text costs little more than itself; a longer word is cut there
UP, DOWN = (np.multiply.accumulate(np.append(np.uint64(1), np.full(AT_ONCE - 1, base))) for base in (BASE, BACK))
UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x9FFF))  # code points that are words by themselves
BETWEEN, PART, ALONE = 0, 1, 2


def words(text: str) -> Hashes:
    """The words of a text in their order."""
    points = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    kind = _kinds()[points]
    inside = kind != BETWEEN
    begins = inside.copy()
    begins[1:] &= (kind[1:] == ALONE) | (kind[:-1] != PART)
    edges = np.append(np.flatnonzero(begins), len(points))
    found = np.empty(len(edges) - 1, np.uint64)
    first = 0
    while first < len(found):
        last = max(first + 1, int(np.searchsorted(edges, edges[first] + AT_ONCE, "right")) - 1)
        part = slice(edges[first], min(edges[last], edges[first] + AT_ONCE))
        starts = edges[first:last] - part.start
        values = UP[: part.stop - part.start] * points[part] * inside[part]
        found[first:last] = np.add.reduceat(values, starts) * DOWN[starts]
        first = last
    return (found ^ (found >> np.uint64(32))) * BASE


def ngrams(words: Hashes, n: int) -> Hashes:
    """The n-grams in their order; fewer than n words are one, and none are none."""
    n = min(n, len(words))
    count = len(words) - n + 1 if n else 0
    found = np.zeros(count, np.uint64)
    for k in range(n):
        found = found * BASE + words[k : k + count]
    return found


def shingles(text: str, n: int) -> Hashes:
    """The distinct n-grams of a text, sorted."""
    return distinct(ngrams(words(text), n))


def distinct(values: Hashes) -> Hashes:
    # Sorting beats numpy's hash-based unique several times over here, and the result must be sorted anyway.
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def digest(content: bytes) -> int:
    """In 64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@functools.cache
def _kinds() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Of every code point: between words, part of one, or one by itself."""
    kinds = np.strings.isalnum(np.arange(0x110000, dtype=np.uint32).view("U1")).astype(np.uint8)
    for low, high in UNSPACED:
        kinds[low : high + 1] = ALONE
    return kinds
