"""A split without leak: documents that share text stay on one side, and what overlap is left is measured.

Overlap is counted in 13-grams of words, the usual measure of contamination: two texts share as many as they have word
sequences of that length in common. Documents that lie inside another one are dropped; those that share more than 5 %
(of the smaller one) form a group, and so do chains of them; groups go to train, dev or test as a whole. Under five
groups the text is cut into contiguous sections instead, with a dropped margin around every held-out one. Held-out
chunks that still repeat the other side (a licence text, a standard table) are dropped last.
"""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from metier.text.grams import Hashes, distinct, shingles

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


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Where each row goes. Every row id is in ``split`` or in ``dropped``, never in both."""

    split: dict[str, str]  # row id → "train", "dev" or "test"
    dropped: dict[str, str]  # row id → reason
    group: dict[str, str]  # row id → group, for rows that were kept; the unit to resample
    how: Literal["groups", "sections"]
    residual: dict[str, float]  # share of the 13-grams of "test" and "dev" that also stand in train
    notes: list[str]


def assign(rows: list[dict[str, Any]], *, dev: float, test: float, seed: int) -> Assignment:
    """Deals rows (columns id, document, text) to train, dev and test; ``dev`` and ``test`` are shares of the bytes.

    The result depends on the rows and the seed alone, and when there are groups enough not on the order of documents.
    """
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        documents[row["document"]].append(row)
    names = sorted(documents)
    texts = {name: "\n".join(row["text"] for row in documents[name]) for name in names}
    sizes = {name: len(texts[name].encode()) for name in names}
    prints = {name: shingles(texts[name], N) for name in names}
    own = {row["id"]: shingles(row["text"], N) for row in rows}
    notes = []
    if sum(sizes.values()) < SMALL:
        notes.append(f"too small to tell: {sum(sizes.values())} bytes of text, at least {SMALL} are needed")

    inside = contained([prints[name] for name in names], [sizes[name] for name in names])
    dropped = {row["id"]: f"document repeats text of {names[other]}"
               for at, other in inside.items() for row in documents[names[at]]}  # fmt: skip
    kept = [name for at, name in enumerate(names) if at not in inside]
    groups, rule = _groups(kept, prints, sizes)
    if rule != RULES[0]:
        notes.append(f"overlaps chain most documents together; grouped at {rule[0]:.0%} instead of {SHARED:.0%}, "
                     f"13-grams in over {rule[1]} documents left out")  # fmt: skip
    remaining = [row for row in rows if row["id"] not in dropped]
    members = _members(kept, groups)
    how: Literal["groups", "sections"] = "groups" if len(members) >= LEAST_GROUPS else "sections"
    if how == "groups":
        side = deal({g: sum(sizes[d] for d in ds) for g, ds in members.items()}, dev=dev, test=test, seed=seed)
        group = {row["id"]: groups[row["document"]] for row in remaining}
        split = {i: side[g] for i, g in group.items()}
    else:
        notes.append(f"{len(members)} independent document{'s' * (len(members) != 1)}: split by contiguous sections "
                     f"with a gap, so train and test share their subject")  # fmt: skip
        split, group, margin = sections(remaining, dev=dev, test=test, seed=seed)
        dropped |= dict.fromkeys(margin, "margin between sections")
    dropped |= _repeats(split, own)
    split = {i: s for i, s in split.items() if i not in dropped}
    group = {i: g for i, g in group.items() if i in split}
    residual = {name: _residual(split, own, name) for name in ("test", "dev")}
    return Assignment(split, dropped, group, how, residual, notes)


def overlap(part: Hashes, whole: Hashes) -> float:
    """The share of the part's n-grams (both sorted) that stand in the whole; 0 when either is empty."""
    if not len(part) or not len(whole):
        return 0.0
    at = np.minimum(np.searchsorted(whole, part), len(whole) - 1)
    return float((whole[at] == part).mean())


def leak_at_random(rows: list[dict[str, Any]], *, dev: float, test: float, seed: int) -> float:
    """The share of test's 13-grams that would stand in train had whole documents been dealt at random."""
    sizes: dict[str, int] = defaultdict(int)
    for row in rows:
        sizes[row["document"]] += len(row["text"].encode())
    side = deal(sizes, dev=dev, test=test, seed=seed)
    prints = {row["id"]: shingles(row["text"], N) for row in rows}
    return _residual({row["id"]: side[row["document"]] for row in rows}, prints, "test")


def shared(prints: list[Hashes], most: int) -> sparse.csr_array:
    """How many n-grams each pair of texts has in common, counting those that stand in at most ``most`` texts."""
    owners = np.repeat(np.arange(len(prints)), [len(p) for p in prints])
    _, column, count = np.unique(np.concatenate(prints), return_inverse=True, return_counts=True)
    use = (count[column] > 1) & (count[column] <= most)
    incidence = sparse.csr_array((np.ones(use.sum(), np.int32), (owners[use], column[use])),
                                 shape=(len(prints), len(count)))  # fmt: skip
    return (incidence @ incidence.T).tocsr()  # [text, text]


def contained(prints: list[Hashes], sizes: list[int]) -> dict[int, int]:
    """Texts that lie inside another, kept one → that one. Of two equal texts the first stays."""
    if not prints:
        return {}
    common = shared(prints, RULES[0][1])
    inside: dict[int, int] = {}
    kept: set[int] = set()
    for at in sorted(range(len(prints)), key=lambda i: (-len(prints[i]), -sizes[i], i)):
        row = common[[at]]
        holders = [int(j) for j, n in zip(row.indices, row.data, strict=True)
                   if j in kept and n >= CONTAINED * len(prints[at])]  # fmt: skip
        if holders:
            inside[at] = min(holders)
        else:
            kept.add(at)
    return inside


def deal(sizes: dict[str, int], *, dev: float, test: float, seed: int) -> dict[str, str]:
    """Group → split. Test and dev are filled with many small groups rather than few large ones, in a seeded order."""
    total = sum(sizes.values())
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    side: dict[str, str] = {}
    for name, share, least in (("test", test, LEAST_GROUPS), ("dev", dev, 3)):
        target = share * total
        if not target:
            continue
        free = [g for g in order if g not in side]
        fits = [g for g in free if sizes[g] * least <= target] or free
        if sum(sizes[g] for g in fits) < target:
            fits = sorted(free, key=lambda g: sizes[g] > target / 2)
        filled = 0
        for g in fits[: max(len(free) - 1, 0)]:
            if filled >= target or (filled and filled + sizes[g] > 1.15 * target):
                continue
            side[g] = name
            filled += sizes[g]
    return {g: side.get(g, "train") for g in sizes}


def sections(
    rows: list[dict[str, Any]], *, dev: float, test: float, seed: int
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Row id → split, row id → group, and the ids of the margins, for texts too few to be dealt as wholes.

    The rows, in reading order, are divided into as many stretches as there are held-out sections; each stretch holds
    one, at a place drawn by the seed, and the train chunk on either side of it is dropped.
    """
    rng = random.Random(seed)
    tests = max(1, min(SECTIONS, int(len(rows) * test / 2)))
    devs = max(1, min(SECTIONS, int(len(rows) * dev / 2))) if dev else 0
    kinds = ["test"] * tests + ["dev"] * devs
    rng.shuffle(kinds)
    wanted = {"test": test * len(rows) / tests, "dev": dev * len(rows) / devs if devs else 0}
    split = {row["id"]: "train" for row in rows}
    group = {row["id"]: row["document"] for row in rows}
    edges: list[str] = []
    for number, kind in enumerate(kinds):
        low, high = (round(len(rows) * (number + k) / len(kinds)) for k in (0, 1))
        length = max(1, round(wanted[kind]))
        start = rng.randint(low, max(low, high - length - 1))
        for row in rows[start : start + length]:
            split[row["id"]] = kind
            group[row["id"]] = f"{row['document']}/{number}"
    sides = [split[row["id"]] for row in rows]
    if len(rows) >= 4 * len(kinds):  # else the margins would eat the text
        for at, row in enumerate(rows):
            around = {sides[i] for i in (at - 1, at + 1) if 0 <= i < len(rows)}
            if sides[at] == "train" and around - {"train"}:
                edges.append(row["id"])
    gone = set(edges)
    return {i: s for i, s in split.items() if i not in gone}, group, edges


def _groups(
    names: list[str], prints: dict[str, Hashes], sizes: dict[str, int]
) -> tuple[dict[str, str], tuple[float, int]]:
    """Document → group (named after its first document), and the rule that made them."""
    lengths = np.array([len(prints[name]) for name in names])
    total = sum(sizes[name] for name in names)
    labels = np.arange(len(names))
    for rule in RULES:
        common = shared([prints[name] for name in names], rule[1]).tocoo()
        i, j = common.coords
        tied = common.data > rule[0] * np.minimum(lengths[i], lengths[j])
        graph = sparse.coo_array((tied[tied], (i[tied], j[tied])), shape=common.shape)
        labels = csgraph.connected_components(graph, directed=False)[1]
        by_label: dict[int, int] = defaultdict(int)
        for name, label in zip(names, labels, strict=True):
            by_label[int(label)] += sizes[name]
        if len(by_label) == len(names) or max(by_label.values()) <= LARGEST * total:
            break
    first: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        first.setdefault(int(label), name)
    return {name: first[int(label)] for name, label in zip(names, labels, strict=True)}, rule


def _members(names: list[str], groups: dict[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[groups[name]].append(name)
    return members


def _repeats(split: dict[str, str], prints: dict[str, Hashes]) -> dict[str, str]:
    """Dev chunks that repeat train, and test chunks that repeat train or dev → reason."""
    seen = _union(split, prints, "train")
    found: dict[str, str] = {}
    for name in ("dev", "test"):
        repeats = [i for i, side in split.items() if side == name and overlap(prints[i], seen) > REPEATED]
        found |= dict.fromkeys(repeats, f"{name} chunk repeats text of another split")
        kept = _union({i: s for i, s in split.items() if i not in found}, prints, name)
        seen = distinct(np.concatenate([seen, kept]))
    return found


def _residual(split: dict[str, str], prints: dict[str, Hashes], name: str) -> float:
    return overlap(_union(split, prints, name), _union(split, prints, "train"))


def _union(split: dict[str, str], prints: dict[str, Hashes], name: str) -> Hashes:
    parts = [prints[i] for i, side in split.items() if side == name]
    return distinct(np.concatenate(parts)) if parts else np.array([], np.uint64)
