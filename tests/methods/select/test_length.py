from __future__ import annotations

import pytest

from metier.artefacts import Records
from metier.data.select import length
from metier.options import MetierError

TALK = [{"role": "user", "content": "How far is it?"}, {"role": "assistant", "content": "Über 9 km"}]
DATA = Records.from_rows(
    [{"id": "a", "messages": TALK, "note": "x y"}, {"id": "b", "prompt": "p q", "completion": "r"}]
)


def lengths(**options: object) -> list[int]:
    return [row["length"] for row in length.score(DATA, **options)]  # type: ignore[arg-type]


def test_what_is_counted() -> None:
    assert lengths() == [7, 3]
    assert lengths(unit="characters") == [len("How far is it?\nÜber 9 km"), len("p q\nr")]
    assert lengths(unit="bytes") == [len("How far is it?\nÜber 9 km") + 1, 5]
    assert lengths(column="reply") == [3, 1] and lengths(column="note") == [2, 0]
    assert lengths(column="messages") == [7, 0]


def test_too_short_and_too_long_are_reasons() -> None:
    rows = list(length.score(DATA, shortest=4))
    assert [r["reason"] for r in rows] == [None, "under 4 words"] and [r["score"] for r in rows] == [7.0, None]
    assert [r["reason"] for r in length.score(DATA, longest=6)] == ["over 6 words", None]
    assert [r["reason"] for r in length.score(DATA, longest=7, shortest=3)] == [None, None]


def test_bad_options() -> None:
    with pytest.raises(MetierError, match="'longest' must be at least 'shortest'"):
        length.score(DATA, shortest=5, longest=4)
    with pytest.raises(MetierError, match="records have no column 'words'; they have: id, messages"):
        length.score(DATA, column="words")
