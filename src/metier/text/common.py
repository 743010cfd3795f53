"""What many texts have in common: their shared n-grams, found in files, so that memory holds a few numbers a text.

Every n-gram of every text goes to one of 256 files by its hash. Each file is sorted by itself, and only n-grams that
stand in two texts or more are kept: the texts they stand in, one n-gram after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metier.text.grams import BASE, shingles

Array = np.ndarray[Any, Any]
ENTRY = np.dtype([("gram", "u8"), ("text", "i4")])
FILES = 256
GATHERED = 1 << 18  # n-grams in memory before they go to their files
AT_ONCE = 1 << 20  # entries or pairs a pass looks at together


class Common:
    """Shared n-grams of texts numbered from 0 to ``count``.

    ``lengths`` [count]: distinct n-grams of each text. ``bytes`` [count]: of its UTF-8. ``folder`` must be empty; the
    files in it may go when this object has.
    """

    def __init__(self, texts: Iterable[tuple[int, str]], count: int, n: int, folder: Path) -> None:
        self.count = count
        self.lengths, self.bytes = np.zeros(count, np.int32), np.zeros(count, np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:03}" for number in range(FILES)]
        with contextlib.ExitStack() as opened:
            streams = [opened.enter_context(path.open("wb")) for path in paths]
            waiting, held = [], 0
            for number, text in texts:
                found = shingles(text, n)
                self.lengths[number], self.bytes[number] = len(found), len(text.encode("utf-8", "surrogatepass"))
                entries = np.empty(len(found), ENTRY)
                entries["gram"], entries["text"] = found, number
                waiting.append(entries)
                held += len(found)
                if held >= GATHERED:
                    _scatter(np.concatenate(waiting), streams)
                    waiting, held = [], 0
            if waiting:
                _scatter(np.concatenate(waiting), streams)
        self._texts, self._sizes = folder / "texts", folder / "sizes"
        with self._texts.open("wb") as texts_file, self._sizes.open("wb") as sizes_file:
            for path in paths:
                owners, sizes = _several(np.fromfile(path, ENTRY))
                texts_file.write(owners.tobytes())
                sizes_file.write(sizes.tobytes())
                path.unlink()
        self.names: Array | None = None

    def renamed(self, names: Array) -> Common:
        """The same texts by other numbers: text i is called ``names[i]``, a permutation."""
        other = object.__new__(Common)
        other.__dict__ |= self.__dict__
        other.lengths, other.bytes = np.empty_like(self.lengths), np.empty_like(self.bytes)
        other.lengths[names], other.bytes[names] = self.lengths, self.bytes
        other.names = names if self.names is None else names[self.names]
        return other

    def shared(self) -> Iterator[tuple[Array, Array]]:
        """Shared n-grams in blocks: (the texts they stand in [entries], how many those are for each one [n-grams])."""
        if not self._sizes.stat().st_size:
            return
        sizes, texts = np.memmap(self._sizes, np.int32, "r"), np.memmap(self._texts, np.int32, "r")
        at = first = 0
        while first < len(sizes):
            block = np.array(sizes[first : first + AT_ONCE // 4])
            ends = np.cumsum(block, dtype=np.int64)
            taken = max(1, int(np.searchsorted(ends, AT_ONCE, "right")))
            entries = np.array(texts[at : at + ends[taken - 1]])
            yield entries if self.names is None else self.names[entries], block[:taken]
            at, first = at + int(ends[taken - 1]), first + taken

    def pairs(self, most: int, use: Array | None = None) -> tuple[Array, Array, Array]:
        """(i, j, n) for all texts i < j with n > 0 n-grams in common that stand in at most ``most`` texts.

        With ``use`` [count] only those texts are there at all. Memory grows with the pairs.
        """
        keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        waiting: list[Array] = []
        for texts, sizes in self.shared():
            if use is not None:
                texts, sizes = _only(texts, sizes, use)
            for own in _matrices(texts, sizes, most):  # [n-grams, texts of each]
                one, two = np.triu_indices(own.shape[1], 1)
                rows = max(1, AT_ONCE // len(one))
                for start in range(0, len(own), rows):
                    a, b = own[start : start + rows, one], own[start : start + rows, two]
                    waiting.append((np.minimum(a, b).astype(np.int64) * self.count + np.maximum(a, b)).reshape(-1))
                    if sum(map(len, waiting)) > AT_ONCE:
                        keys, counts, waiting = *_summed(keys, counts, waiting), []
        keys, counts = _summed(keys, counts, waiting)
        return keys // self.count, keys % self.count, counts

    def repeated(self, side: Array, here: int, there: list[int]) -> Array:
        """Of every text on the side ``here``, the share of its n-grams that stand in a text of ``there``: [count]."""
        hits = np.zeros(self.count, np.int64)
        for texts, sizes in self.shared():
            sides = side[texts]
            other = np.repeat(_any(np.isin(sides, there), sizes), sizes)
            hits += np.bincount(texts[(sides == here) & other], minlength=self.count)
        return hits / np.maximum(self.lengths, 1)

    def overlap(self, side: Array, here: int, there: int) -> float:
        """The share of the distinct n-grams of one side that also stand on another."""
        alone = np.where(side == here, self.lengths, 0).astype(np.int64)
        several = both = 0
        for texts, sizes in self.shared():
            sides = side[texts]
            on_one, on_other = _any(sides == here, sizes), _any(sides == there, sizes)
            several, both = several + int(on_one.sum()), both + int((on_one & on_other).sum())
            alone -= np.bincount(texts[sides == here], minlength=self.count)
        total = int(alone.sum()) + several
        return both / total if total else 0.0


def _scatter(entries: Array, streams: list[Any]) -> None:
    part = ((entries["gram"] * BASE) >> np.uint64(56)).astype(np.uint8)
    order = np.argsort(part, kind="stable")
    entries, ends = entries[order], np.cumsum(np.bincount(part, minlength=FILES))
    for stream, start, end in zip(streams, [0, *ends[:-1]], ends, strict=True):
        stream.write(entries[start:end].tobytes())


def _several(entries: Array) -> tuple[Array, Array]:
    """The texts of n-grams that stand in more than one, and how many each of those n-grams has."""
    order = np.argsort(entries["gram"])
    grams = entries["gram"][order]
    begins = np.flatnonzero(np.append(True, grams[1:] != grams[:-1])) if len(grams) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(begins, len(grams)))
    inside = np.repeat(sizes > 1, sizes)
    return entries["text"][order[inside]].astype(np.int32), sizes[sizes > 1].astype(np.int32)


def _any(marks: Array, sizes: Array) -> Array:
    """Whether an n-gram has a marked entry: [n-grams]."""
    found: Array = np.logical_or.reduceat(marks, np.cumsum(sizes) - sizes)
    return found


def _only(texts: Array, sizes: Array, use: Array) -> tuple[Array, Array]:
    stays = use[texts]
    left = np.add.reduceat(stays.astype(np.int32), np.cumsum(sizes) - sizes)
    return texts[stays], left[left > 0]


def _matrices(texts: Array, sizes: Array, most: int) -> Iterator[Array]:
    """The texts of all n-grams that stand in 2, 3 … ``most`` texts: [n-grams, texts of each]."""
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[(sizes > 1) & (sizes <= most)]).tolist():
        yield texts[starts[sizes == size][:, None] + np.arange(size)]


def _summed(keys: Array, counts: Array, waiting: list[Array]) -> tuple[Array, Array]:
    new, number = np.unique(np.concatenate([*waiting, np.zeros(0, np.int64)]), return_counts=True)
    merged, at = np.unique(np.concatenate([keys, new]), return_inverse=True)
    return merged, np.bincount(at, np.concatenate([counts, number]), len(merged)).astype(np.int64)
