"""Junk, wrong languages and duplicates: what goes, what must stay, and that order does not matter."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.artefacts import Records
from metier.data.select import distinct, readable
from metier.options import MetierError
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
