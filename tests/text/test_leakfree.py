"""The split: no text on both sides, whatever the documents share."""

from __future__ import annotations

import dataclasses
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.text import common, leakfree

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Dealt:
    """An Assignment by the ids of rows."""

    split: dict[str, str]
    dropped: dict[str, str]
    group: dict[str, str]
    how: str
    residual: dict[str, float]
    notes: list[str]


def assign(rows: Rows, *, dev: float, test: float, seed: int) -> Dealt:
    names = sorted({row["document"] for row in rows})
    owner = np.array([names.index(row["document"]) for row in rows])
    texts = {name: "\n".join(row["text"] for row in rows if row["document"] == name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        found = leakfree.assign(
            owner, lambda number: names[number], lambda: enumerate(texts.values()),
            lambda: enumerate(row["text"] for row in rows), dev=dev, test=test, seed=seed, folder=Path(folder),
        )  # fmt: skip
    kept = [(row["id"], i) for i, row in enumerate(rows) if found.side[i] != leakfree.DROPPED]
    assert set(found.dropped) == set(np.flatnonzero(found.side == leakfree.DROPPED).tolist())
    assert found.bytes.tolist() == [len(row["text"].encode()) for row in rows]

    def group(i: int) -> str:
        section = f"/{found.section[i]}" if found.section[i] >= 0 else ""
        return names[found.group[i]] + section

    return Dealt(
        {name: leakfree.SIDES[found.side[i]] for name, i in kept},
        {rows[i]["id"]: why for i, why in found.dropped.items()},
        {name: group(i) for name, i in kept},
        found.how, found.residual, found.notes,
    )  # fmt: skip


def words(seed: int, n: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(n))


def rows_of(documents: dict[str, list[str]]) -> Rows:
    return [{"id": f"{name}.{k}", "document": name, "text": text}
            for name, texts in documents.items() for k, text in enumerate(texts)]  # fmt: skip


def independent(n: int, chunks: int = 4) -> dict[str, list[str]]:
    return {f"d{i:02}": [words(100 * i + k, 60) for k in range(chunks)] for i in range(n)}


def counted(texts: list[str], folder: Path) -> common.Common:
    return common.Common(enumerate(texts), len(texts), leakfree.N, folder)


def test_overlap_is_the_share_of_the_distinct_n_grams_of_a_side(tmp_path: Path) -> None:
    whole = words(1, 100)
    part = " ".join(whole.split()[:20]) + " " + words(2, 20)
    found = counted([part, whole, ""], tmp_path)
    assert found.lengths.tolist() == [28, 88, 0]
    assert found.overlap(np.array([2, 0, 1]), 2, 0) == 8 / 28 and found.overlap(np.array([2, 0, 1]), 0, 2) == 8 / 88
    assert found.overlap(np.array([2, 0, 1]), 1, 0) == found.overlap(np.array([2, 1, 1]), 2, 0) == 0
    assert found.repeated(np.array([2, 0, 1]), 2, [0]).tolist() == [8 / 28, 0, 0]
    twice = counted([part, part, whole], tmp_path / "twice")  # a side has each n-gram once
    assert twice.overlap(np.array([2, 2, 0]), 2, 0) == 8 / 28


def test_pairs_are_those_of_a_plain_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "AT_ONCE", 50)  # many small blocks
    monkeypatch.setattr(common, "GATHERED", 40)
    rng = random.Random(0)
    texts = [" ".join(words(rng.randrange(9), 30) for _ in range(rng.randrange(4))) for _ in range(25)]
    grams = [set(common.shingles(text, leakfree.N).tolist()) for text in texts]
    used = np.array([rng.random() < 0.7 for _ in texts])
    found = counted(texts, tmp_path)
    for most, use in ((100, None), (3, None), (4, used)):
        own = [g if use is None or use[i] else set() for i, g in enumerate(grams)]
        few = {g for g in set().union(*own) if sum(g in o for o in own) <= most}
        wanted = {(i, j): len(own[i] & own[j] & few) for i in range(25) for j in range(i + 1, 25)}
        i, j, n = found.pairs(most, use)
        assert dict(zip(zip(i.tolist(), j.tolist(), strict=True), n.tolist(), strict=True)) == {
            pair: count for pair, count in wanted.items() if count
        }
    other = rng.sample(range(25), 25)
    i, j, n = found.renamed(np.array(other)).pairs(100)
    assert {(*sorted((other[a], other[b])), c) for a, b, c in zip(*found.pairs(100), strict=True)} == set(
        zip(i, j, n, strict=True)
    )


def test_a_document_inside_another_is_dropped_and_of_equals_one_stays(tmp_path: Path) -> None:
    whole, other = words(1, 200), words(2, 100)
    found = counted([" ".join(whole.split()[50:120]), whole, other, other], tmp_path)
    assert leakfree.contained(found.pairs(100), found.lengths, np.ones(4)) == {0: 1, 3: 2}


def test_documents_that_share_text_stay_together() -> None:
    documents = independent(20)
    for a, b in (("d00", "d01"), ("d01", "d02"), ("d07", "d08")):
        documents[b].append(" ".join(documents[a][0].split()[:40]) + " " + words(9000 + int(b[1:]), 10))
    made = assign(rows_of(documents), dev=0.1, test=0.2, seed=3)
    assert made.how == "groups" and not made.dropped and not made.notes
    assert made.group["d00.0"] == made.group["d01.0"] == made.group["d02.0"] == "d00"
    assert made.group["d07.0"] == made.group["d08.0"]
    assert len({made.group[f"d{i:02}.0"] for i in range(20)}) == 17
    for group in set(made.group.values()):
        assert len({made.split[i] for i, g in made.group.items() if g == group}) == 1
    assert made.residual == {"test": 0.0, "dev": 0.0}


def test_the_shares_are_met_with_many_groups_in_test() -> None:
    rows = rows_of(independent(60))
    made = assign(rows, dev=0.1, test=0.2, seed=0)
    size = {row["id"]: len(row["text"]) for row in rows}
    total = sum(size.values())
    for name, share in (("test", 0.2), ("dev", 0.1)):
        assert sum(size[i] for i, s in made.split.items() if s == name) / total == pytest.approx(share, abs=0.03)
    assert len({made.group[i] for i, s in made.split.items() if s == "test"}) >= leakfree.LEAST_GROUPS


@pytest.mark.parametrize("seed", range(8))
def test_a_large_document_is_never_most_of_what_is_held_out(seed: int) -> None:
    sizes = np.array([*[10] * 85, 150])
    side = leakfree.deal(sizes, dev=0.1, test=0.2, seed=seed)
    assert side[-1] == leakfree.TRAIN
    assert sizes[side == leakfree.TEST].sum() == 200


def test_held_out_chunks_that_repeat_train_go_with_a_reason() -> None:
    licence = words(7, 60)
    documents = {name: [*texts, *(words(10**6 + i * 100 + k, 200) for k in range(8)), licence]
                 for i, (name, texts) in enumerate(independent(30).items())}  # fmt: skip
    made = assign(rows_of(documents), dev=0.1, test=0.2, seed=0)
    assert made.how == "groups" and len(set(made.group.values())) == 30
    assert set(made.dropped.values()) == {"dev chunk repeats text of another split",
                                          "test chunk repeats text of another split"}  # fmt: skip
    assert all(i.endswith(".12") for i in made.dropped)
    assert made.residual == {"test": 0.0, "dev": 0.0}


def test_a_chain_through_all_documents_is_broken_and_said() -> None:
    documents = independent(12, 8)
    names = list(documents)
    for a, b in itertools.pairwise(names):
        documents[b][0] = " ".join(documents[a][7].split()[:52]) + " " + words(ord(b[-1]), 20)
    made = assign(rows_of(documents), dev=0.1, test=0.2, seed=0)
    assert made.how == "groups" and len(set(made.group.values())) >= leakfree.LEAST_GROUPS
    assert any("instead of 5%" in note for note in made.notes)
    assert max(made.residual.values()) < 0.02


@pytest.mark.parametrize("n", [1, 4])
def test_few_documents_are_cut_into_sections_with_a_margin(n: int) -> None:
    rows = rows_of(independent(n, 80 // n))
    made = assign(rows, dev=0.1, test=0.2, seed=1)
    assert made.how == "sections" and any("contiguous sections" in note for note in made.notes)
    assert set(made.dropped.values()) == {"margin between sections"}
    order = [made.split.get(row["id"]) for row in rows]
    for a, b in itertools.pairwise(order):
        assert not (a == "train" and b in ("dev", "test")) and not (a in ("dev", "test") and b == "train")
    assert 0.1 < order.count("test") / 80 < 0.3 and 0.05 < order.count("dev") / 80 < 0.2
    assert len({made.group[r["id"]] for r in rows if made.split.get(r["id"]) == "test"}) == leakfree.SECTIONS


def test_small_texts_are_called_too_small() -> None:
    assert "too small to tell" in assign(rows_of(independent(10, 1)), dev=0.1, test=0.2, seed=0).notes[0]
    assert not assign(rows_of(independent(60, 4)), dev=0.1, test=0.2, seed=0).notes


def test_whole_documents_dealt_at_random_leak(tmp_path: Path) -> None:
    documents = {f"d{i}": [words(i // 2, 60)] for i in range(40)}
    owner, texts = np.arange(40), [texts[0] for texts in documents.values()]
    given = {"dev": 0.1, "test": 0.2, "seed": 0, "folder": tmp_path}
    assert leakfree.leak_at_random(owner, lambda: enumerate(texts), **given) > 0.5
    made = assign(rows_of(documents), dev=0.1, test=0.2, seed=0)
    assert made.residual["test"] == 0 and len(made.dropped) == 20


DOCUMENTS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=14)


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.integers(0, 5))
def test_any_documents(made_of: list[list[int]], seed: int) -> None:
    """Documents made of shared passages: every row is dealt or dropped, and nothing held out stands in train."""
    rows = rows_of({f"d{i:02}": [words(p, 40) for p in passages] for i, passages in enumerate(made_of)})
    made = assign(rows, dev=0.1, test=0.2, seed=seed)
    assert set(made.split) | set(made.dropped) == {row["id"] for row in rows}
    assert not set(made.split) & set(made.dropped)
    assert set(made.group) == set(made.split)
    text = {row["id"]: row["text"] for row in rows}
    train = {text[i] for i, s in made.split.items() if s == "train"}
    assert not train & {text[i] for i, s in made.split.items() if s != "train"}
    assert assign(rows, dev=0.1, test=0.2, seed=seed) == made
    if made.how == "groups":
        shuffled = random.Random(seed).sample(list({r["document"] for r in rows}), len(made_of))
        again = assign([r for d in shuffled for r in rows if r["document"] == d], dev=0.1, test=0.2, seed=seed)
        assert (again.split, again.dropped, again.group) == (made.split, made.dropped, made.group)
