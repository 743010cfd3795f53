"""Record files → Records: jsonl, json, csv, parquet, in the shapes of training data.

For training data that exists already: instructions (alpaca, sharegpt, messages, OpenAI, prompt–completion), texts,
preferences, KTO. The shape is found in the first row of each file, and the columns are those of the record form: text ·
messages · prompt and completion · prompt, replies and scores; every other key is a free column (what is nested, as
JSON; a name the house needs itself, such as `id`, as given_<name>). The step `write` gives the file back without loss.
Files may be gzipped, lie in folders (other files there are dropped with a reason), or come as ``-``. Not for documents.

Options:
    source: files, folders, globs, or ``-`` (jsonl or json).
    shape: of the rows; *auto* finds it out, *free* takes any row as columns, for `data.edit.template`.
    unfit: rows that are broken or fit no shape, or whose roles do not alternate, are *refused* or *dropped* and logged.
    licence: what the records may be used under; travels with every record.
Raises: MetierError naming file and line for a broken row, one of another shape, or one that fits none; for a source
    that is not there, or when nothing could be read.
Differs: narrow number types of parquet are widened, its times become text; csv knows no null.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import pyarrow as pa

from metier import shapes
from metier.artefacts import Records, Row
from metier.data.ingest import _columns, _files, _streams
from metier.data.ingest._decode import Unreadable
from metier.disk import ROWS_A_BATCH, read_table, writing
from metier.options import MetierError, Source
from metier.shapes import Misfit
from metier.store import Work

OWNER = "data.ingest.records"
LARGE = 8 << 20  # characters of a batch
Shape = Literal[
    "auto", "text", "messages", "openai", "sharegpt", "alpaca", "prompt_completion", "preference", "kto", "free"
]
ORIGIN = pa.struct({name: pa.int64() if name == "line" else pa.string()
                    for name in ("file", "line", "kind", "licence", "shape", "given")})  # fmt: skip

EXAMPLE = {"source": ["{records}"]}


def read(
    source: Source, *, shape: Shape = "auto", unfit: Literal["refuse", "drop"] = "refuse", licence: str = "", work: Work
) -> Records:
    """Records in the order of file names and lines; ids depend on file name, line and row only.

    ``origin`` {file (relative to its source), line (of parquet: row), kind, licence, shape, given (the row as JSON,
    where its columns alone would not give it back)}.
    """
    files = find(source)
    usable: list[_files.File] = []
    dropped: Counter[str] = Counter()
    misfits: Counter[str] = Counter()
    seen: dict[str, dict[str, str]] = {}  # column → kind of value → where it stood first
    with work.progress("looking at records", len(files)) as bar:
        for file in files:
            try:
                found, bad = 0, Counter[str]()
                for fit in _fitting(file, shape, unfit, bad, work):
                    _columns.look(seen, fit.columns, f"{file.name}, line {fit.line}")
                    found += 1
                misfits.update(bad)
                if not found:
                    raise Unreadable("no row fits" if bad else "empty")
                usable.append(file)
            except (Unreadable, OSError) as error:
                reason = str(error) if isinstance(error, Unreadable) else f"cannot be opened ({error.strerror})"
                dropped[reason] += 1
                work.log(event="dropped", file=file.name, reason=reason)
            bar.advance(1, file.name)
    if not usable:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items()))
        raise MetierError(f"{OWNER}: no record could be read from {', '.join(source)} ({reasons})")
    columns = {name: _columns.type_of(name, kinds) for name, kinds in seen.items()}
    counts: Counter[str] = Counter()
    path = work.folder / "reading.arrow"
    with work.progress("reading records", len(usable)) as bar, writing(path, also_reads=True):
        schema = pa.schema({"id": pa.string(), **columns, "origin": ORIGIN})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            batch, size = [], 0
            for file in usable:
                line, place = 0, 0  # a json file may hold many rows in one line, and equal ones
                for fit in _fitting(file, shape, "drop", Counter(), None):
                    line, place = fit.line, place + 1 if fit.line == line else 0
                    batch.append(_record(file, fit, place, columns, licence))
                    counts[fit.shape] += 1
                    size += len(fit.told)
                    if len(batch) >= ROWS_A_BATCH or size > LARGE:
                        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                        batch, size = [], 0
                bar.advance(1, file.name)
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    records = Records(read_table(path))
    path.unlink()  # the open map keeps the rows until the artefact is saved
    work.log(event="read", files=len(files), kept=len(usable), dropped=dict(dropped), records=len(records),
             shapes=dict(counts), unfit=dict(misfits))  # fmt: skip
    return records


def find(source: list[str]) -> list[_files.File]:
    return _files.find(source, OWNER)


fingerprints = {"read": _files.fingerprint}
checks = {"read": find}


class _Fit(NamedTuple):
    line: int
    shape: str
    columns: Row  # record form and free columns, as the file has their values
    told: str  # the row as JSON


def _fitting(file: _files.File, shape: str, unfit: str, misfits: Counter[str], work: Work | None) -> Iterator[_Fit]:
    """The rows that fit; what does not is refused, or counted and logged."""
    first, began = shape, 0
    for line, row in _streams.rows(file):
        try:
            if isinstance(row, Misfit):
                raise row
            if first == "auto":
                first, began = _detected(row), line
            if shape == "auto" and line != began and (found := _detected(row)) != first:
                raise Misfit(f"is {found}, and the file began (line {began}) with {first}")
            fit = _Fit(line, first, shapes.read(row, first), _told(row))
        except Misfit as misfit:
            if unfit == "refuse":
                raise MetierError(f"{file.name}, line {line}: {misfit}") from None
            if work is not None:
                misfits[str(misfit)] += 1
                work.log(event="dropped", file=file.name, line=line, reason=str(misfit))
            continue
        yield fit


def _detected(row: Row) -> str:
    found = shapes.detect(row)
    if found is None:
        raise Misfit(f"fits no shape; it has the keys: {', '.join(row) or 'none'}")
    return found


def _told(row: Row) -> str:
    text = json.dumps(row, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Misfit(_streams.trouble(error)) from None
    return text


def _record(file: _files.File, fit: _Fit, place: int, columns: dict[str, pa.DataType], licence: str) -> Row:
    record: Row = {name: _columns.cell(fit.columns.get(name), type_) for name, type_ in columns.items()}
    given = None if _told(shapes.write(record, fit.shape)) == fit.told else fit.told
    name = f"{file.name}\0{fit.line}\0{fit.told}" + (f"\0{place}" if place else "")
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    origin = {"file": file.name, "line": fit.line, "kind": _streams.kind_of(file), "licence": licence,
              "shape": fit.shape, "given": given}  # fmt: skip
    return {"id": digest, **record, "origin": origin}
