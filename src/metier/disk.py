"""Tables, JSON and digests on disk, and the one sentence when the disk refuses.

Tables are Arrow IPC files: written once in batches, opened memory-mapped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from metier.options import MetierError

ROWS_A_BATCH = 4096
MARK = "metier.json"  # in a folder of a specialist: metier wrote it
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "a file may not grow this large here (ulimit -f)",
}


@contextmanager
def writing(place: Path, also_reads: bool = False) -> Iterator[None]:
    """A write that fails is one sentence naming the place, whichever library was at it.

    ``also_reads``: what happens inside reads other files as well, so only a full disk is surely about writing.
    Raises MetierError.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number in FULL:
            reason = f"{FULL[number]}; make room, and the same command goes on"
        elif isinstance(error, OSError) and not also_reads:
            reason = error.strerror or str(error)
        else:
            raise
        raise MetierError(f"cannot write {place}: {reason}") from None


def unwritable(place: Path) -> str | None:
    """Why nothing can be written at a place, which need not be there yet; None when nothing speaks against it."""
    there = next(folder for folder in place.absolute().parents if os.path.lexists(folder))
    if not there.is_dir():
        return f"'{there}' is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"'{there}' may not be written to"


def write_table(table: pa.Table, path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as sink:
            _write_ipc(table, sink)


def read_table(path: Path) -> pa.Table:
    """Memory-mapped: the columns stay on disk until they are read."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def table_digest(table: pa.Table) -> str:
    """Of the content, whatever batches the table is held in."""
    sink = _HashSink()
    _write_ipc(table, pa.PythonFile(sink, mode="w"))
    return sink.sha.hexdigest()


def text_digest(*parts: str) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(f"{len(part)}:{part}".encode())
    return sha.hexdigest()


def files_digest(folder: Path) -> str:
    """Of every file below a folder, or of one file: names and bytes, in name order."""
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]:
        sha.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}:".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def write_json(path: Path, value: Any) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _number(error: Exception) -> int | None:
    """The system's error number; libraries written in Rust, and shutil of many files, tell it in their message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(found[1] or found[2]) if found else None


def _write_ipc(table: pa.Table, sink: Any) -> None:
    table = table.replace_schema_metadata(None)
    with pa.ipc.new_file(sink, table.schema) as writer:
        for start in range(0, max(table.num_rows, 1), ROWS_A_BATCH):
            # Sliced first, so that memory holds one batch. A slice keeps its parent's buffers; taking rows copies them,
            # so equal content gives equal bytes.
            batch = table.slice(start, ROWS_A_BATCH)
            writer.write_table(batch.take(pa.array(range(batch.num_rows), pa.int64())).combine_chunks())


class _HashSink:
    closed = False

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...
