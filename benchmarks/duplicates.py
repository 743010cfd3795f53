"""Near-duplicates: documents a second on one core, at equal recall, against datatrove's MinHash.

The corpus is cut and put together by a seed from the general texts and the example documents. Into it are planted exact
copies, near copies (similarity 0.85 to 0.95 in 5-grams of words) and hard negatives (0.5 to 0.6), one for an original.
Recall: planted pairs of which one is dropped. Precision: dropped documents that belong to a planted pair.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import HERE, PAIRS, ROOT, Round, Row, Side, interleaved, machine, python, ratio

from metier.general import data as general

DOCUMENTS = 20_000
EXACT, NEAR, HARD = 0.04, 0.08, 0.08  # share of the documents that were made from another one
SIMILAR = {"near": (0.85, 0.95), "hard": (0.5, 0.6)}
PIECES = (8, 20)  # words of a piece; a document has PIECES_A_DOCUMENT of them
PIECES_A_DOCUMENT = (10, 20)
GAP = 0.01  # of recall
SIDES = HERE / "sides"
Pair = tuple[str, str]


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus.jsonl"
        texts, planted = documents(DOCUMENTS, seed=0)
        corpus.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()), encoding="utf-8")

        def agree(ours: Round, theirs: Round) -> None:
            here, there = (judged(set(side["dropped"]), planted)[0] for side in (ours, theirs))
            if here < there - GAP:
                raise SystemExit(f"duplicates: recall is {here:.3f} and theirs {there:.3f}; speeds do not compare")

        for words, against in (("blanks", "datatrove 0.10.1, words cut at blanks"), ("english", "datatrove 0.10.1")):
            ours = Side(SIDES / "dedup_ours.py", str(corpus))
            theirs = Side(SIDES / "dedup_datatrove.py", str(corpus), words, python=python("datatrove"))
            pairs = interleaved(ours, theirs, PAIRS, agree)
            (recall, precision), other = (judged(set(side["dropped"]), planted) for side in pairs[-1])
            speed = len(texts) / statistics.median(side["seconds"] for side, _ in pairs)
            note = (f"recall {recall:.3f}, theirs {other[0]:.3f}; precision {precision:.3f}, theirs {other[1]:.3f}; "
                    f"ours {speed:.0f} documents a second")  # fmt: skip
            yield Row("near-duplicates per core at equal recall", against, *ratio(pairs, "seconds", inverse=True),
                      ">= 3", "ours / theirs, documents a second", PAIRS, machine(), note)  # fmt: skip


def judged(dropped: set[str], planted: list[Pair]) -> tuple[float, float]:
    """(recall, precision)."""
    members = {name for pair in planted for name in pair}
    recall = sum(bool(dropped & set(pair)) for pair in planted) / len(planted)
    return recall, len(dropped & members) / max(len(dropped), 1)


def documents(count: int, seed: int) -> tuple[dict[str, str], list[Pair]]:
    """(id → text in a mixed order, pairs of which one should go)."""
    draw = random.Random(seed)
    words = [text.split() for text in sources()]
    made = {kind: round(count * share) for kind, share in (("exact", EXACT), ("near", NEAR), ("hard", HARD))}
    texts = [" ".join(original(words, draw)) for _ in range(count - sum(made.values()))]
    names = [f"original-{i}" for i in range(len(texts))]
    pairs: list[Pair] = []
    for kind, number in made.items():
        for _ in range(number):
            at = len(names) - (count - sum(made.values()))  # each original at most once
            names.append(f"{kind}-{at}")
            texts.append(texts[at] if kind == "exact" else changed(texts[at], words, draw, *SIMILAR[kind]))
            if kind != "hard":
                pairs.append((names[at], names[-1]))
    order = draw.sample(range(count), count)
    return {names[i]: texts[i] for i in order}, pairs


def sources() -> list[str]:
    files = sorted((ROOT / "examples" / "python_reference").glob("*.txt"))
    return [row["text"] for row in general.replay()] + [file.read_text(encoding="utf-8") for file in files]


def original(words: list[list[str]], draw: random.Random) -> list[str]:
    found: list[str] = []
    for _ in range(draw.randint(*PIECES_A_DOCUMENT)):
        text, length = draw.choice(words), draw.randint(*PIECES)
        start = draw.randrange(max(1, len(text) - length))
        found += text[start : start + length]
    return found


def changed(text: str, words: list[list[str]], draw: random.Random, low: float, high: float) -> str:
    """Words are replaced, put in and left out until the similarity lies between the two."""
    before = grams(text)
    while True:
        new, now, target = text.split(), 1.0, draw.uniform(low, high)
        while now > target:
            at, word = draw.randrange(len(new)), draw.choice(draw.choice(words))
            start, stop, put = draw.choice([(at, at + 1, [word]), (at, at, [word]), (at, at + 1, [])])
            new[start:stop] = put
            after = grams(" ".join(new))
            now = len(before & after) / len(before | after)
        if low <= now <= high:
            return " ".join(new)


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
