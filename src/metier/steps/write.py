"""Writes records to a jsonl, json, csv or parquet file, in a shape that other tools read.

*same* gives each record the shape and the row it was read with: what no step has changed comes back as it stood, keys
in their order, and what was changed is written in the file's way. Columns that steps have added stand behind them.
The file appears as a whole or not at all; records go on unchanged.

Options:
    to: the file; its ending says how it is written (.jsonl, .json, .csv, .tsv, .parquet; with .gz behind: packed).
    shape: *same* as read (records from elsewhere: as their form says), or the one to convert to; *free* writes the
        free columns alone.
Raises: MetierError when the file holds what this step did not write, a record does not fit the shape, or records of
    several shapes would come into one file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from metier import shapes
from metier.artefacts import Records, Row
from metier.disk import files_digest, unwritable, writing
from metier.options import MetierError, Place
from metier.steps import _tables
from metier.store import Work

Shape = Literal[
    "same", "text", "messages", "openai", "sharegpt", "alpaca", "prompt_completion", "preference", "kto", "free"
]


def run(data: Records, *, to: Place, shape: Shape = "same", work: Work) -> Records:
    refuse(to)
    path, mark = _file(to), _mark(to)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    try:
        count = _tables.write(lambda: _rows(data, shape), temporary, path.name)
        # Both the old and the new content are ours until the new one has taken its place.
        known = [files_digest(path)] if path.exists() else []
        with writing(path):
            mark.write_text("\n".join([*known, files_digest(temporary)]) + "\n", encoding="utf-8")
            temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise
    work.log(event="written", records=count, shape=shape)
    return data


def refuse(to: str) -> None:
    """Raises MetierError for an unknown ending, a place that cannot be written, or a file this step did not write."""
    path = _file(to)
    if _tables.kind(path.name) is None:
        raise MetierError(f"write: 'to' must end in {', '.join(_tables.KINDS)}, got {to!r}")
    if (reason := unwritable(path)) is not None:
        raise MetierError(f"write: 'to' is {to!r}, and {reason}")
    known = _mark(to).read_text(encoding="utf-8").split() if _mark(to).exists() else []
    if path.exists() and (not path.is_file() or files_digest(path) not in known):
        raise MetierError(f"write: '{to}' exists and holds what metier did not write; move it away or change 'to'")


checks = {"run": refuse}


def _rows(data: Records, shape: str) -> Iterator[Row]:
    first = ""
    for record in data:
        origin = record.get("origin") or {}
        came = origin.get("shape")
        wanted = shape if shape != "same" else came or shapes.own(record)
        first = first or wanted
        if wanted != first:
            raise MetierError(f"write: records of two shapes, {first} and {wanted}; say one with 'shape'")
        given = json.loads(origin["given"]) if origin.get("given") else None
        if given is not None and came != wanted:
            record, given = shapes.freed(record, str(came), given), None
        try:
            yield shapes.write(record, wanted, given)
        except shapes.Misfit as misfit:
            raise MetierError(f"write: record {record['id']!r} {misfit}, so it cannot be written as {wanted}") from None


def _file(to: str) -> Path:
    return Path(os.path.expanduser(to))


def _mark(to: str) -> Path:
    """Digests of what was written, beside the file."""
    path = _file(to)
    return path.with_name(f".{path.name}.metier")
