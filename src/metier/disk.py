"""Tables, JSON and digests on disk. Tables are Arrow IPC files: written once in batches, opened memory-mapped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

ROWS_A_BATCH = 4096


def write_table(table: pa.Table, path: Path) -> None:
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_ipc(table: pa.Table, sink: Any) -> None:
    table = table.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_file(sink, table.schema) as writer:
        for start in range(0, max(table.num_rows, 1), ROWS_A_BATCH):
            # A slice keeps its parent's buffers; taking rows copies them, so equal content gives equal bytes.
            rows = pa.array(range(start, min(start + ROWS_A_BATCH, table.num_rows)), pa.int64())
            writer.write_table(table.take(rows).combine_chunks())


class _HashSink:
    closed = False

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...
