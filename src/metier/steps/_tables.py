"""Rows written to a file of the format its ending names, a part at a time."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from metier.artefacts import Row
from metier.disk import writing
from metier.options import MetierError

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PART = 1024  # rows
Rows = Callable[[], Iterable[Row]]  # begins anew at each call: what names its columns first is read twice


def kind(name: str) -> str | None:
    plain = name.removesuffix(".gz")
    found = next((k for k in KINDS if plain.endswith(k)), None)
    return None if found == ".parquet" and plain != name else found


def write(rows: Rows, path: Path, name: str) -> int:
    """Writes the rows in the format of ``name`` to ``path``, syncs, and says how many there were."""
    wanted = kind(name)
    with writing(path, also_reads=True):
        if wanted == ".parquet":
            return _parquet(rows, path)
        with _text(path, packed=name.endswith(".gz")) as stream:
            if wanted in (".csv", ".tsv"):
                return _csv(rows, stream, "," if wanted == ".csv" else "\t")
            return _json(rows(), stream, listed=wanted == ".json")


def _json(rows: Iterable[Row], stream: IO[str], listed: bool) -> int:
    count = 0
    for row in rows:
        stream.write((",\n" if count else "[\n") if listed else "")
        stream.write(json.dumps(row, ensure_ascii=False) + ("" if listed else "\n"))
        count += 1
    stream.write(("\n]\n" if count else "[]\n") if listed else "")
    return count


def _csv(rows: Rows, stream: IO[str], delimiter: str) -> int:
    count, names = 0, list(dict.fromkeys(name for row in rows() for name in row))
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for row in rows():
        writer.writerow(["" if row.get(n) is None else _cell(row[n]) for n in names])
        count += 1
    return count


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet(rows: Rows, path: Path) -> int:
    count, schema = 0, pa.schema([])
    try:
        for part in _parts(rows()):
            schema = pa.unify_schemas([schema, _table(part).schema], promote_options="permissive")
        with pq.ParquetWriter(path, schema) as writer:
            for part in _parts(rows()):
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
                count += len(part)
    except pa.ArrowException as error:
        raise MetierError(f"write: {str(error).splitlines()[0]}, which a parquet file cannot hold; "
                          f"choose .jsonl") from None  # fmt: skip
    _sync(path)
    return count


def _table(rows: list[Row]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)})


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while part := list(itertools.islice(left, PART)):
        yield part


@contextmanager
def _text(path: Path, packed: bool) -> Iterator[IO[str]]:
    with path.open("wb") as raw:
        # No name and no time in the head of a packed file: the same records give the same bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else None
        stream = io.TextIOWrapper(zipped or raw, "utf-8", newline="", write_through=False)
        yield stream
        stream.flush()
        stream.detach()
        if zipped is not None:
            zipped.close()
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
