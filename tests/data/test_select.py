"""Junk, wrong languages and duplicates: what goes, what must stay, and that order does not matter."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.artefacts import Records, Scores
from metier.data.select import distinct, readable
from metier.options import MetierError
from metier.steps import keep
from metier.store import Work
from metier.text.grams import shingles

ENGLISH = (
    "The valve opens when the pressure in the chamber passes the limit that the operator has set before. After the "
    "pressure has fallen the valve closes again, and the pump begins to fill the chamber from the beginning. "
)
GERMAN = (
    "Das Ventil öffnet sich, sobald der Druck in der Kammer den Wert überschreitet, den der Bediener vorher "
    "eingestellt hat. Nachdem der Druck gefallen ist, schließt das Ventil wieder, und die Pumpe beginnt die "
    "Kammer zu füllen. "
)
CODE = "for name, value in items:\n    if value is None:\n        raise ValueError(name)\n    found[name] = value\n"
GRAMMAR = 'if_stmt ::= "if" assignment_expression ":" suite\n            ("elif" assignment_expression ":" suite)*\n'
TABLE = "+------+------+\n| name | unit |\n+======+======+\n| p    | bar  |\n+------+------+"


def records(*texts: str, documents: list[str] | None = None) -> Records:
    owners = documents or [f"d{i}" for i in range(len(texts))]
    return Records.from_rows({"id": f"r{i}", "document": owners[i], "text": t} for i, t in enumerate(texts))


def reasons(data: Records, **options: object) -> list[str | None]:
    return [row["reason"] for row in readable.score(data, **options)]  # type: ignore[arg-type]


def judged(data: Records, at: float = 0.85) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return list(distinct.score(data, at=at, work=Work(Path(folder))))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x y", "too short"),
        ("1 2 3 " * 30 + "see the table above", "mostly digits"),
        ("@@ ## $$ %% ^^ && (( )) __ ++ ab cd ef gh " * 5, "mostly symbols"),
        ("\n".join(f"{i} The chapter about valves ........ {i}" for i in range(6)), "table of contents"),
        ("Page header of the book\n" * 12, "repeated lines"),
        ("(cid:12)(cid:44) of the (cid:9) text \ufffd\ufffd and so on", "binary residue"),
        (CODE, None), (GRAMMAR, None), (TABLE, None), ("pip install metier now", None),
        ("这个阀门在压力超过限制时打开。", None),
    ],
)  # fmt: skip
def test_junk_and_what_is_none(text: str, reason: str | None) -> None:
    assert reasons(records(text, ENGLISH)) == [reason, None]


def test_wrong_language() -> None:
    data = records(
        *[f"{ENGLISH}{i}" for i in range(9)],
        GERMAN,
        "".join(CODE.replace("name", f"n{i}") for i in range(9)),
        "Ein kurzer deutscher Satz.",
    )
    found = reasons(data)
    assert found == [None] * 9 + ["wrong language (de)", None, None]
    assert reasons(data, language="any") == [None] * 12
    assert reasons(data, sure=1.0)[9] is None
    assert reasons(data, language="de") == ["wrong language (en)"] * 9 + [None] * 3
    assert reasons(records(ENGLISH, ENGLISH, GERMAN)) == [None] * 3  # a third of the text is no foreign body
    with pytest.raises(MetierError, match=r"'language' must be .* got 'German'"):
        readable.score(data, language="German")


def test_score_is_the_share_of_letters() -> None:
    assert [row["score"] for row in readable.score(records("abcd efgh ijkl mn12"))] == [14 / 16]


def test_exact_and_near_duplicates_leave_the_longer_document() -> None:
    words = ENGLISH.split() * 1
    near = " ".join([*words[:-1], "end"])
    texts = [ENGLISH, ENGLISH.upper() + "!", near, GERMAN, ENGLISH]
    data = records(*texts, documents=["short", "other", "third", "long", "long"])
    assert [row["reason"] for row in judged(data)] == [
        "exact duplicate of r4", "exact duplicate of r4", "near duplicate of r4", None, None,
    ]  # fmt: skip
    assert [row["reason"] for row in judged(data, at=1.0)][2] is None
    scores = [row["score"] for row in judged(data, at=1.0)]
    a, b = (shingles(t, distinct.N) for t in (near, ENGLISH))
    assert scores[3:] == [1.0, 1.0] and scores[2] == 1 - distinct.jaccard(a, b)


def test_planted_near_duplicates_are_all_found() -> None:
    rng = random.Random(0)
    originals = [" ".join(f"w{rng.randrange(5000)}" for _ in range(120)) for _ in range(200)]
    changed = [" ".join("x" if i == 60 else w for i, w in enumerate(t.split())) for t in originals]  # J = 111 / 121
    found = [row["reason"] for row in judged(records(*originals, *changed))]
    assert sum(r is not None for r in found) == 200
    assert all((a is None) != (b is None) for a, b in zip(found[:200], found[200:], strict=True))


def test_copies_go_with_what_they_copy_and_texts_without_words_are_compared_whole() -> None:
    near = " ".join([*ENGLISH.split()[:-1], "end"])
    data = records(ENGLISH, near, near, "…", "…", "—", documents=["a", "b", "c", "d", "e", "f"])
    data = data.take([5, 4, 3, 2, 1, 0])
    assert {row["id"]: row["reason"] for row in judged(data)} == {
        "r0": None, "r1": "near duplicate of r0", "r2": "near duplicate of r0",
        "r3": None, "r4": "exact duplicate of r3", "r5": None,
    }  # fmt: skip
    with pytest.raises(MetierError, match=r"data\.select\.distinct: 1 of 2 records have no text"):
        judged(Records.from_rows([{"id": "a", "text": "b"}, {"id": "c"}]))


def test_a_document_is_as_long_as_all_its_records() -> None:
    data = Records.from_rows(
        {"id": f"r{i}", "document": d, "text": t}
        for i, (d, t) in enumerate([(1, ENGLISH), (2, ENGLISH), (2, GERMAN), (None, ENGLISH)])
    )
    assert [row["reason"] for row in judged(data)] == ["exact duplicate of r1", None, None, "exact duplicate of r1"]


def test_keep_takes_the_best_and_says_why_the_others_go(tmp_path: Path) -> None:
    data, work = records(*"abcdef"), Work(tmp_path)
    given = {"r5": 0.5, "r4": None, "r3": 0.9, "r2": 0.1, "r1": 0.5, "r0": 0.7}  # in another order than the records
    scores = Scores.from_rows({"id": i, "score": s, "reason": None if s else "too short"} for i, s in given.items())
    assert keep.run(data, scores, work=work).column("id") == ["r0", "r1", "r2", "r3", "r5"]
    assert keep.run(data, scores, share=0.6, work=work).column("id") == ["r0", "r1", "r3"]  # of equal ones the first
    assert keep.run(data, scores, above=0.1, share=0.5, work=work).column("id") == ["r0", "r3"]
    assert {r["id"]: r["reason"] for r in work.rows()[-4:]} == {
        "r4": "too short", "r2": "score not above 0.1", "r1": "not among the best 50%", "r5": "not among the best 50%",
    }  # fmt: skip
    with pytest.raises(MetierError, match=r"keep: record 'r6' has no row in the scores \(1 have none\)"):
        keep.run(Records.from_rows([*data, {"id": "r6", "text": "g"}]), scores, work=work)
    with pytest.raises(MetierError, match="keep: nothing is left of 6 records"):
        keep.run(data, scores, above=1.0, work=work)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.randoms())
def test_every_record_gets_one_verdict_whatever_the_order(kinds: list[int], rng: random.Random) -> None:
    rows = [{"id": f"r{i}", "document": f"d{i % 3}", "text": ENGLISH + "variant " * (k % 3) + GERMAN * (k // 3)}
            for i, k in enumerate(kinds)]  # fmt: skip
    shuffled = rng.sample(rows, len(rows))
    for method in (readable.score, judged):
        first = {row["id"]: row for row in method(Records.from_rows(rows))}
        again = {row["id"]: row for row in method(Records.from_rows(shuffled))}
        assert first == again and set(first) == {row["id"] for row in rows}
