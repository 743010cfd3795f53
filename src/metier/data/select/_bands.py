"""The banded index of MinHash signatures: records that have a band in common may be similar.

It lies in a file, four bytes a record and band; memory holds what records share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BANDS = 32  # with 4 rows each: a pair of similarity 0.7 is found with probability 0.9998, one of 0.5 with 0.87

Array = np.ndarray[Any, Any]


class Index:
    """Groups of records that share a band of their signatures, to be filled with those that stay."""

    def __init__(self, bands: Array, order: Array, own: Array, path: Path) -> None:
        """``bands`` [rows, BANDS]; ``order``: the row in each place; ``own`` [places]: those to be compared."""
        self.shares = np.zeros(len(order), bool)
        sizes: list[Array] = []
        before = 0
        with path.open("wb") as stream:
            for band in range(BANDS):
                group = np.full(len(order), -1, np.int32)
                group[own], size = alike(bands[:, band][order[own]])
                group[group >= 0] += before
                stream.write(group.tobytes())
                self.shares |= group >= 0
                sizes.append(size)
                before += len(size)
        size = np.concatenate(sizes)
        self.groups = mapped(path, np.int32, (BANDS, len(order)))
        self.starts, self.counts = np.cumsum(size) - size, np.zeros(len(size), np.int32)
        self.members = np.empty(size.sum(), np.int32)

    def near(self, place: int) -> list[int]:
        """The records added so far that share a band with this one."""
        groups = self._groups(place)
        taken = groups[self.counts[groups] > 0]
        found = [self.members[self.starts[g] : self.starts[g] + self.counts[g]] for g in taken]
        return np.unique(np.concatenate(found)).tolist() if found else []

    def add(self, place: int) -> None:
        groups = self._groups(place)
        self.members[self.starts[groups] + self.counts[groups]] = place
        self.counts[groups] += 1

    def _groups(self, place: int) -> Array:
        found = self.groups[:, place]
        return found[found >= 0]


def alike(keys: Array) -> tuple[Array, Array]:
    """Of every key, the number of its group of equal ones, or -1 when it is alone; and the sizes of the groups."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    inside = np.append(same, False)
    inside[1:] |= same
    members = order[inside]
    number = np.cumsum(~np.append(False, same)[inside]) - 1
    group = np.full(len(keys), -1, np.int32)
    group[members] = number
    return group, np.bincount(number)


def mapped(path: Path, kind: Any, shape: tuple[int, ...] | None = None) -> Array:
    found = np.memmap(path, kind, "r", shape=shape)
    path.unlink()
    return found
