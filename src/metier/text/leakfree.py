"""A split without leak: documents that share text stay on one side, and what overlap is left is measured.

Overlap is counted in 13-grams of words, the usual measure of contamination: two texts share as many as they have word
sequences of that length in common. Documents that lie inside another one are dropped; those that share more than 5 %
(of the smaller one) form a group, and so do chains of them; groups go to train, dev or test as a whole. Under five
groups the text is cut into contiguous sections instead, with a dropped margin around every held-out one. Held-out
chunks that still repeat the other side (a licence text, a standard table) are dropped last.

Memory holds a few numbers a row and the pairs of documents that share text; the texts themselves go by once or twice.
"""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from metier.text.common import Array, Common

N = 13
SHARED = 0.05  # documents that share more than this of the smaller one's 13-grams form a group
CONTAINED = 0.95  # a document with this share of its 13-grams inside another one is dropped
REPEATED = 0.1  # a held-out chunk with more than this share of its 13-grams on another side is dropped
LEAST_GROUPS = 5
LARGEST = 0.5  # a group with more than this share of the text is broken up by the next rule of RULES
# (share, in how many documents a 13-gram may stand to count). The first is the rule; the others take over in turn when
# chains of small overlaps tie most of the text into one group. What stands in over 100 documents is a set phrase.
RULES = [(SHARED, 100), (SHARED, 5), (0.1, 5), (0.2, 5), (0.5, 5)]
SMALL = 20_000  # bytes; with less text no verdict is possible
SECTIONS = 5  # held-out test sections of a single document, at most
SIDES = ("train", "dev", "test")
TRAIN, DEV, TEST = range(3)
DROPPED = -1
REPEATS = {DEV: "dev chunk repeats text of another split", TEST: "test chunk repeats text of another split"}

Texts = Callable[[], Iterable[tuple[int, str]]]  # every call goes through all texts anew: (number, text)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Where each row goes: a number of SIDES, or DROPPED with a reason in ``dropped``.

    ``group`` [rows] is the document that names the row's group, the unit to resample, and ``section`` [rows] the
    number of its section in it, or -1. ``bytes`` [rows]: of its text.
    """

    side: Array  # int8 [rows]
    group: Array  # int32 [rows]
    section: Array  # int16 [rows]
    bytes: Array  # int64 [rows]
    dropped: dict[int, str]
    how: Literal["groups", "sections"]
    residual: dict[str, float]  # share of the 13-grams of "test" and "dev" that also stand in train
    notes: list[str]


def assign(
    owner: Array, names: Callable[[int], str], documents: Texts, rows: Texts, *, dev: float, test: float, seed: int,
    folder: Path,
) -> Assignment:  # fmt: skip
    """Deals rows to train, dev and test; ``dev`` and ``test`` are shares of the bytes.

    ``owner`` [rows]: the document of each row; documents are numbered in the order of their names, and ``names`` tells
    them. The result depends on texts, names and the seed alone, and when there are groups enough not on the order of
    documents. ``folder`` is for the files of `Common`.
    """
    count = int(owner.max()) + 1
    common = Common(documents(), count, N, folder / "documents")
    sizes, notes = common.bytes, []
    if sizes.sum() < SMALL:
        notes.append(f"too small to tell: {sizes.sum()} bytes of text, at least {SMALL} are needed")

    pairs = common.pairs(RULES[0][1])
    inside = contained(pairs, common.lengths, sizes)
    gone = np.zeros(count, bool)
    gone[list(inside)] = True
    groups, rule = _groups(common, ~gone, pairs if not inside else None)
    if rule != RULES[0]:
        notes.append(f"overlaps chain most documents together; grouped at {rule[0]:.0%} instead of {SHARED:.0%}, "
                     f"13-grams in over {rule[1]} documents left out")  # fmt: skip
    side = np.full(len(owner), DROPPED, np.int8)
    section = np.full(len(owner), -1, np.int16)
    stays = ~gone[owner]
    dropped = {int(row): f"document repeats text of {names(inside[int(owner[row])])}" for row in np.flatnonzero(~stays)}
    members = np.flatnonzero((groups == np.arange(count, dtype=np.int32)) & ~gone).astype(np.int32)
    how: Literal["groups", "sections"] = "groups" if len(members) >= LEAST_GROUPS else "sections"
    if how == "groups":
        dealt, whole = np.full(count, DROPPED, np.int8), np.zeros(count, np.int64)
        np.add.at(whole, groups[~gone], sizes[~gone])
        dealt[members] = deal(whole[members], dev=dev, test=test, seed=seed)
        side[stays] = dealt[groups[owner[stays]]]
    else:
        notes.append(f"{len(members)} independent document{'s' * (len(members) != 1)}: split by contiguous sections "
                     f"with a gap, so train and test share their subject")  # fmt: skip
        side[stays], section[stays] = sections(int(stays.sum()), dev=dev, test=test, seed=seed)
        margin = stays & (side == DROPPED)
        dropped |= dict.fromkeys(np.flatnonzero(margin).tolist(), "margin between sections")
    if len(owner) == count:  # every row is a document
        own = common.renamed(np.argsort(owner).astype(np.int32))
    else:
        own = Common(rows(), len(owner), N, folder / "rows")
    for name, others in ((DEV, [TRAIN]), (TEST, [TRAIN, DEV])):
        repeats = np.flatnonzero((side == name) & (own.repeated(side, name, others) > REPEATED))
        side[repeats] = DROPPED
        dropped |= dict.fromkeys(repeats.tolist(), REPEATS[name])
    group = owner if how == "sections" else groups[owner]
    residual = {SIDES[name]: own.overlap(side, name, TRAIN) for name in (TEST, DEV)}
    return Assignment(side, group, section, own.bytes, dropped, how, residual, notes)


def leak_at_random(owner: Array, rows: Texts, *, dev: float, test: float, seed: int, folder: Path) -> float:
    """The share of test's 13-grams that would stand in train had whole documents been dealt at random."""
    own = Common(rows(), len(owner), N, folder)
    sizes = np.bincount(owner, own.bytes).astype(np.int64)
    return own.overlap(deal(sizes, dev=dev, test=test, seed=seed)[owner], TEST, TRAIN)


def contained(pairs: tuple[Array, Array, Array], lengths: Array, sizes: Array) -> dict[int, int]:
    """Texts that lie inside another, kept one → that one. Of two equal texts the first stays."""
    i, j, n = pairs
    least = np.minimum(lengths[i], lengths[j])
    close = n >= CONTAINED * least
    near: dict[int, list[tuple[int, int]]] = {}
    for a, b, both in zip(i[close].tolist(), j[close].tolist(), n[close].tolist(), strict=True):
        near.setdefault(a, []).append((b, both))
        near.setdefault(b, []).append((a, both))
    inside: dict[int, int] = {}
    kept: set[int] = set()
    for at in sorted(near, key=lambda i: (-lengths[i], -sizes[i], i)):
        holders = [other for other, both in near[at] if other in kept and both >= CONTAINED * lengths[at]]
        if holders:
            inside[at] = min(holders)
        else:
            kept.add(at)
    return inside


def deal(sizes: Array, *, dev: float, test: float, seed: int) -> Array:
    """The side of each group: int8 [groups]. Test and dev get many small groups rather than few large ones.

    ``sizes`` [groups] in bytes; the order they are tried in is drawn by the seed.
    """
    mixed = array("i", range(len(sizes)))
    random.Random(seed).shuffle(mixed)
    order, total = np.frombuffer(mixed, np.int32), int(sizes.sum())
    side = np.zeros(len(sizes), np.int8)
    for name, share, least in ((TEST, test, LEAST_GROUPS), (DEV, dev, 3)):
        target = share * total
        if not target:
            continue
        free = order[side[order] == TRAIN]
        fits = free[sizes[free] * least <= target]
        fits = fits if len(fits) else free
        if sizes[fits].sum() < target:
            fits = free[np.argsort(sizes[free] > target / 2, kind="stable")]
        filled = 0
        for group in fits[: max(len(free) - 1, 0)]:
            if filled >= target:
                break
            if filled and filled + sizes[group] > 1.15 * target:
                continue
            side[group] = name
            filled += int(sizes[group])
    return side


def sections(count: int, *, dev: float, test: float, seed: int) -> tuple[Array, Array]:
    """(side, section) of ``count`` rows in reading order, for texts too few to be dealt as wholes.

    The rows are divided into as many stretches as there are held-out sections; each stretch holds one, at a place drawn
    by the seed, and the train row on either side of it is dropped.
    """
    rng = random.Random(seed)
    tests = max(1, min(SECTIONS, int(count * test / 2)))
    devs = max(1, min(SECTIONS, int(count * dev / 2))) if dev else 0
    kinds = [TEST] * tests + [DEV] * devs
    rng.shuffle(kinds)
    wanted = {TEST: test * count / tests, DEV: dev * count / devs if devs else 0}
    side, section = np.full(count, TRAIN, np.int8), np.full(count, -1, np.int16)
    for number, kind in enumerate(kinds):
        low, high = (round(count * (number + k) / len(kinds)) for k in (0, 1))
        length = max(1, round(wanted[kind]))
        start = rng.randint(low, max(low, high - length - 1))
        side[start : start + length], section[start : start + length] = kind, number
    if count >= 4 * len(kinds):  # else the margins would eat the text
        held = side != TRAIN
        beside = np.append(held[1:], False) | np.append(False, held[:-1])
        side[beside & ~held] = DROPPED
    return side, section


def _groups(common: Common, use: Array, pairs: tuple[Array, Array, Array] | None) -> tuple[Array, tuple[float, int]]:
    """Of every document in ``use``, the first document of its group; and the rule that made the groups."""
    total, most = common.bytes[use].sum(), RULES[0][1]
    for rule in RULES:
        if pairs is None or rule[1] != most:
            pairs, most = common.pairs(rule[1], use), rule[1]
        i, j, n = pairs
        tied = n > rule[0] * np.minimum(common.lengths[i], common.lengths[j])
        own, at = np.unique(np.concatenate([i[tied], j[tied]]), return_inverse=True)  # the others stand alone
        graph = sparse.coo_array((np.ones(tied.sum()), at.reshape(2, -1)), shape=(len(own), len(own)))
        labels = csgraph.connected_components(graph, directed=False)[1]  # 0, 1, 2 … in the order of their first
        if not len(own) or np.bincount(labels, common.bytes[own]).max() <= LARGEST * total:
            break
    groups = np.arange(common.count, dtype=np.int32)
    groups[own] = own[np.unique(labels, return_index=True)[1]][labels]
    return groups, rule
