"""Tables that pass between steps: Records, and the Scores of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pyarrow as pa

from metier.disk import ROWS_A_BATCH, read_table, table_digest, write_table
from metier.options import MetierError

Row = dict[str, Any]


class Records:
    """Ordered rows: ``id``, one of text / messages / prompt …, ``origin``, ``split`` and free named columns."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Records:
        """From dicts; a column missing in a row is null there.

        Raises MetierError when an id is missing, no text or there twice, and for a column of several kinds of values.
        """
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.table({name: _column("records", name, [row.get(name) for row in rows]) for name in names})
        seen: set[str] = set()
        for row in rows:
            if not isinstance(row.get("id"), str):
                raise MetierError("records: every record needs an 'id' that is text")
            if row["id"] in seen:
                raise MetierError(f"records: the id {row['id']!r} stands twice")
            seen.add(row["id"])
        return cls(table)

    def __len__(self) -> int:
        return cast(int, self.table.num_rows)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=ROWS_A_BATCH):
            yield from batch.to_pylist()

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    def array(self, name: str) -> pa.ChunkedArray:
        """A column where it lies. Raises MetierError, naming the columns there are, when there is none of that name."""
        if name not in self.columns:
            raise MetierError(f"records have no column '{name}'; they have: {', '.join(self.columns) or 'none'}")
        return self.table.column(name)

    def column(self, name: str) -> list[Any]:
        """Raises MetierError, naming the columns there are, when there is none of that name."""
        return cast(list[Any], self.array(name).to_pylist())

    def take(self, indices: Sequence[int]) -> Records:
        return Records(self.table.take(pa.array(indices, pa.int64())))

    def where(self, mask: Sequence[bool]) -> Records:
        return Records(self.table.filter(pa.array(mask, pa.bool_())))

    def with_column(self, name: str, values: Sequence[Any] | pa.Array | pa.ChunkedArray) -> Records:
        """The records with one column added or replaced."""
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        if name in self.columns:
            return Records(self.table.set_column(self.columns.index(name), name, array))
        return Records(self.table.append_column(name, array))

    def part(self, split: str) -> Records:
        """The rows of one split; what ``$name.train`` means in a recipe. Raises MetierError for an unknown split."""
        splits = self.column("split")
        if split not in splits:
            known = ", ".join(sorted({str(s) for s in splits if s})) or "none"
            raise MetierError(f"records have no split '{split}'; they have: {known}")
        return self.where([s == split for s in splits])

    @property
    def digest(self) -> str:
        return table_digest(self.table)

    def save(self, folder: Path) -> None:
        write_table(self.table, folder / "records.arrow")

    @classmethod
    def load(cls, folder: Path) -> Records:
        return cls(read_table(folder / "records.arrow"))


class Scores:
    """A number, or a reason why not, per record id (columns ``id``, ``score``, ``reason``) and named columns."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Scores:
        """Rows {id, score | None, reason | None, …}: exactly one of score and reason is set (checked)."""
        rows = list(rows)
        for row in rows:
            if (row.get("score") is None) == (row.get("reason") is None):
                raise MetierError(f"scores: record {row.get('id')!r} needs a score or a reason, and not both")
        extra = [n for n in dict.fromkeys(name for row in rows for name in row) if n not in ("id", "score", "reason")]
        kinds = {"id": pa.string(), "score": pa.float64(), "reason": pa.string()} | dict.fromkeys(extra)
        return cls(pa.table({n: _column("scores", n, [row.get(n) for row in rows], kinds[n]) for n in kinds}))

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=ROWS_A_BATCH):
            yield from batch.to_pylist()

    @property
    def digest(self) -> str:
        return table_digest(self.table)

    def save(self, folder: Path) -> None:
        write_table(self.table, folder / "scores.arrow")

    @classmethod
    def load(cls, folder: Path) -> Scores:
        return cls(read_table(folder / "scores.arrow"))


def _column(owner: str, name: str, values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise MetierError(f"{owner}: the column '{name}' holds values that do not go together ({error})") from None
