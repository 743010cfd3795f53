"""csv and jsonl: a row is a document when some column holds text; a table of short values is one document."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

from metier.data.ingest._streams import trouble
from metier.options import MetierError

TEXTUAL = 40  # characters a column holds on average before it counts as text
LOOKED_AT = 200  # rows


def csv_rows(text: str, delimiter: str | None) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) for each data row; the first row names the columns."""
    csv.field_size_limit(1 << 30)
    if delimiter is None:
        try:
            delimiter = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|").delimiter
        except csv.Error:
            delimiter = ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        yield reader.line_num, {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str) and v.strip()}


def jsonl_rows(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, the row's texts and numbers). Raises MetierError with file and line when one is no JSON object."""
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise MetierError(f"{name}, line {number}: {trouble(error)}") from None
        if not isinstance(row, dict):
            raise MetierError(f"{name}, line {number}: must be a JSON object, got {type(row).__name__}")
        yield number, {k: str(v) for k, v in row.items() if isinstance(v, str | int | float) and str(v).strip()}


def documents(rows: Iterator[tuple[int, dict[str, str]]]) -> Iterator[tuple[int | None, str]]:
    """(line, text) a row; or (None, text) once, a line a row, when no column holds text.

    The column ``text`` is used when there is one, else all columns that hold at least 40 characters on average.
    """
    first = list(itertools.islice(rows, LOOKED_AT))
    columns = list(dict.fromkeys(name for _, row in first for name in row))
    lengths = {c: [len(row[c]) for _, row in first if c in row] for c in columns}
    textual = [c for c in columns if sum(lengths[c]) >= TEXTUAL * len(lengths[c])]
    if "text" in columns:
        textual = ["text"]
    everything = itertools.chain(first, rows)
    if not textual:
        yield None, "\n".join(", ".join(f"{k}: {v}" for k, v in row.items()) for _, row in everything if row)
        return
    for line, row in everything:
        yield line, "\n\n".join(row[c] for c in textual if c in row)
