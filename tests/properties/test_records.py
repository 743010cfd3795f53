"""Tables: what goes in comes out, under one digest, however it was cut; ids stand once."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.artefacts import Records, Scores
from metier.options import MetierError

words = st.text(st.characters(codec="utf-8"), max_size=12)
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": words}), max_size=3)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "text": words, "n": st.integers(-(2**63), 2**63 - 1), "x": st.floats(allow_nan=False), "yes": st.booleans(),
    "messages": turns, "names": st.lists(words, max_size=3),
}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), unique=True))
    ids = draw(st.lists(words, unique=True, max_size=12))
    return [{"id": i} | {name: draw(st.none() | COLUMNS[name]) for name in names} for i in ids]


@given(tables())
@settings(deadline=None)
def test_rows_survive_memory_and_disk(rows: list[dict[str, Any]]) -> None:
    records = Records.from_rows(rows)
    assert list(records) == rows and len(records) == len(rows)
    with tempfile.TemporaryDirectory() as folder:
        records.save(Path(folder))
        back = Records.load(Path(folder))
        assert list(back) == rows and back.digest == records.digest


@given(tables(), st.data())
@settings(deadline=None)
def test_the_digest_is_of_content_not_of_batches(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    records = Records.from_rows(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [records.table.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert Records(pa.concat_tables(parts)).digest == records.digest
    assert records.take(range(len(rows))).digest == records.digest
    order = data.draw(st.permutations(range(len(rows))))
    assert (records.take(order).digest == records.digest) == (list(order) == sorted(order))


@given(st.lists(st.fixed_dictionaries({"id": st.sampled_from(["a", "b", None, 3, ["c"]])}), max_size=3))
def test_ids_are_texts_that_stand_once(rows: list[dict[str, Any]]) -> None:
    ids = [row["id"] for row in rows]
    fine = all(isinstance(i, str) for i in ids) and len(set(map(str, ids))) == len(ids)
    if fine:
        assert Records.from_rows(rows).column("id") == ids if rows else True
    else:
        with pytest.raises(MetierError, match="records: "):
            Records.from_rows(rows)


@given(st.lists(st.integers() | st.floats() | words | st.lists(words, max_size=2) | st.none(), max_size=4))
def test_a_column_of_anything_is_kept_or_refused_by_name(values: list[Any]) -> None:
    rows = [{"id": str(i), "x": value} for i, value in enumerate(values)]
    try:
        found = [row["x"] for row in Records.from_rows(rows)]
    except MetierError as error:
        assert "the column 'x'" in str(error)
    else:
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found, values, strict=True))


@given(st.lists(st.tuples(st.none() | st.floats(allow_nan=False), st.none() | words), max_size=6))
@settings(deadline=None)
def test_a_score_or_a_reason(sides: list[tuple[float | None, str | None]]) -> None:
    rows = [{"id": str(i), "score": score, "reason": reason} for i, (score, reason) in enumerate(sides)]
    if all((score is None) != (reason is None) for score, reason in sides):
        assert list(Scores.from_rows(rows)) == rows
    else:
        with pytest.raises(MetierError, match="needs a score or a reason, and not both"):
            Scores.from_rows(rows)
