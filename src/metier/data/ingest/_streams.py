"""Rows of jsonl, json, csv and parquet files, one at a time: memory holds a row, whatever the file holds."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import charset_normalizer
import pyarrow as pa
import pyarrow.parquet as pq

from metier.artefacts import Row
from metier.data.ingest._decode import GUESSED_FROM, MARKS, Unreadable
from metier.data.ingest._files import File
from metier.options import MetierError
from metier.shapes import Misfit

LONGEST = 64 << 20  # characters of a row
BLOCK = 1 << 20
KINDS = {"jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "csv", "parquet": "parquet"}
TURNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected", "history")

Found = Iterator[tuple[int, "Row | Misfit"]]  # line (of parquet: row), from 1, and what stands there


def rows(file: File) -> Found:
    """The rows of a file. Raises Unreadable, OSError, or MetierError where a file cannot be read on."""
    if file.fault is not None:
        raise file.fault
    name = file.name.removesuffix(".gz")
    suffix = Path(name).suffix.lower().lstrip(".")
    kind = "json" if file.path is None else KINDS.get(suffix)
    if kind is None:
        raise Unreadable(f"not a record format ({f'.{suffix}' if suffix else 'no ending'})")
    try:
        if kind == "parquet":
            yield from _parquet(file)
            return
        encoding = _encoding(file)
        with _open(file) as stream:
            text = io.TextIOWrapper(stream, encoding, newline="" if kind == "csv" else "\n")
            if kind == "csv":
                yield from _csv(text, file.name, "\t" if suffix == "tsv" else None)
            else:
                yield from (_jsonl if kind == "jsonl" else _json)(text, file.name)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise Unreadable("damaged gzip") from None
    except UnicodeDecodeError:
        raise Unreadable(f"broken {encoding} text") from None


def kind_of(file: File) -> str:
    return KINDS.get(Path(file.name.removesuffix(".gz")).suffix.lower().lstrip("."), "json")


@contextmanager
def _open(file: File) -> Iterator[BinaryIO]:
    with io.BytesIO(file.data()) if file.path is None else file.path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=cast(BinaryIO, raw)) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield cast(BinaryIO, raw)


def _encoding(file: File) -> str:
    """UTF-8, or what a mark says, or what the text around the first byte that is no UTF-8 is taken for."""
    with _open(file) as stream:
        head = stream.read(BLOCK)
        if not head.strip():
            raise Unreadable("empty")
        for mark, encoding in MARKS:
            if head.startswith(mark):
                return encoding
        if b"\0" in head[:8192]:
            raise Unreadable("binary")
        decoder, block, ends = codecs.getincrementaldecoder("utf-8")(), head, False
        while not ends:
            ends = not block
            try:
                decoder.decode(block, final=ends)
            except UnicodeDecodeError as error:
                near = block[max(0, error.start - GUESSED_FROM // 2) :][:GUESSED_FROM]
                guess = charset_normalizer.from_bytes(near or head[-GUESSED_FROM:]).best()
                if guess is None:
                    raise Unreadable("binary or of unknown encoding") from None
                return guess.encoding
            block = stream.read(BLOCK)
    return "utf-8"


def _jsonl(text: io.TextIOWrapper, name: str) -> Found:
    number = 0
    while line := text.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise MetierError(f"{name}, line {number}: longer than {LONGEST >> 20} million characters")
        if line.strip():
            try:
                yield number, _object(_decoder.decode(line))
            except Misfit as misfit:
                yield number, misfit
            except (ValueError, RecursionError) as error:
                yield number, Misfit(trouble(error))


def _json(text: io.TextIOWrapper, name: str) -> Found:
    """The objects of one list, or objects one after another."""
    buffer, at, line, ends = "", 0, 1, False

    def more() -> None:
        nonlocal buffer, at, ends
        read = text.read(max(BLOCK, len(buffer) - at))  # twice as much each time: a long row is not parsed often
        buffer, at, ends = buffer[at:] + read, 0, not read

    def blanks(also: str = "") -> str:
        nonlocal at, line
        while True:
            start = at
            while at < len(buffer) and (buffer[at] in " \t\r\n" or buffer[at] in also):
                at += 1
            line += buffer.count("\n", start, at)
            if at < len(buffer) or ends:
                return buffer[at : at + 1]
            more()

    listed = blanks() == "["
    at += listed
    while (mark := blanks(",")) and not (listed and mark == "]"):
        try:
            value, end = _decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            where = getattr(error, "pos", len(buffer))
            cut = str(error).startswith("Unterminated") or where > len(buffer) - 16
            if ends or not cut:
                line += buffer.count("\n", at, where)
                raise MetierError(f"{name}, line {line}: {trouble(error)}") from None
            if len(buffer) - at > LONGEST:
                raise MetierError(f"{name}, line {line}: a row of over {LONGEST >> 20} million characters") from None
            more()
            continue
        try:
            yield line, _object(value)
        except Misfit as misfit:
            yield line, misfit
        line += buffer.count("\n", at, end)
        at = end
    if listed and not mark:
        raise MetierError(f"{name}, line {line}: not valid JSON: the list does not end")
    at += listed
    if blanks():
        raise MetierError(f"{name}, line {line}: not valid JSON: something stands behind the list")


def _csv(text: io.TextIOWrapper, name: str, delimiter: str | None) -> Found:
    csv.field_size_limit(LONGEST)
    head = [text.readline(LONGEST)]
    try:
        delimiter = delimiter or csv.Sniffer().sniff(head[0], delimiters=",;\t|").delimiter
    except csv.Error:
        delimiter = ","

    def lines() -> Iterator[str]:
        yield from head
        yield from iter(lambda: text.readline(LONGEST), "")

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    begins = 1
    try:
        names = next(reader)
        if len(set(names)) < len(names) or "" in names:
            raise MetierError(f"{name}, line 1: each column needs a name of its own, got {', '.join(names)}")
        begins = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                yield begins, Misfit(f"has {len(cells)} cells, and the first line names {len(names)} columns")
            elif cells:
                yield begins, {k: _cell(k, v) for k, v in zip(names, cells, strict=True)}
            begins = reader.line_num + 1
    except csv.Error as error:
        raise MetierError(f"{name}, line {begins}: not valid csv: {error}") from None


def _parquet(file: File) -> Found:
    try:
        with _open(file) as stream:
            for number, row in enumerate(_parquet_rows(stream), start=1):
                try:
                    yield number, json.loads(json.dumps(row, default=_simple))
                except Misfit as misfit:
                    yield number, misfit
    except pa.ArrowException:
        raise Unreadable("damaged parquet") from None


def _parquet_rows(stream: BinaryIO) -> Iterator[Row]:
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _simple(value: Any) -> str:
    if isinstance(value, bytes):
        raise Misfit("holds bytes, and records hold text and numbers")
    return str(value)


def _cell(name: str, cell: str) -> Any:
    """Messages stand in a cell as JSON."""
    if name in TURNS and cell.startswith("["):
        try:
            value = _decoder.decode(cell)
        except (ValueError, RecursionError, Misfit):
            return cell
        if name == "history" or all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in value):
            return value
    return cell


def _object(value: Any) -> Row:
    if not isinstance(value, dict):
        raise Misfit(f"must be a JSON object, got {type(value).__name__}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Misfit(f"the key '{twice}' stands twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_once)


def trouble(error: Exception) -> str:
    """Why a row cannot be read from JSON, or not be written as text."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeEncodeError):
        return "holds half a character (a lone surrogate)"
    return "nested too deeply" if isinstance(error, RecursionError) else "not valid JSON: a number of too many digits"
