"""Documents → clean chunks, each with its file, page, heading and offset.

For people whose field lies in files: pdf, docx, pptx, html, markdown, text, manual pages (roff), csv, jsonl; also
gzipped, in folders (walked; hidden files and the folders of specialists, with their reports, are left out), globs,
or ``-`` for standard input. Wrapped lines are joined, chunks follow headings and paragraphs and keep code and lists
whole (`text.unwrap`, `text.chunk`). A file that cannot be read is dropped with its reason in the log, never silently.
Not for scans: there is no character recognition.

Files over 256 MiB are dropped. Nothing in a document is obeyed or fetched: links, scripts and images are not followed.

Options:
    source: files, folders, globs, or ``-``. A folder is read for document formats; a file named or globbed, as text.
    chunk: characters a chunk aims at; 1600 is about 400 tokens of English.
    licence: what the documents may be used under; travels with every record.
Raises: MetierError for a source that is not there, a broken jsonl line, or when nothing could be read.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from metier.artefacts import Records, Row
from metier.data.ingest import _files
from metier.data.ingest._decode import Unreadable
from metier.data.ingest._formats import Document, documents
from metier.disk import ROWS_A_BATCH, read_table, writing
from metier.options import Count, MetierError, Source
from metier.store import Work
from metier.text import chunk as chunking

WINDOW = 4 << 20  # characters chunked at a time, so that a giant file costs little more than its text

SCHEMA = pa.schema({
    "id": pa.string(), "document": pa.string(), "title": pa.string(), "heading": pa.string(), "text": pa.string(),
    "origin": pa.struct({"file": pa.string(), "page": pa.int64(), "line": pa.int64(), "offset": pa.int64(),
                         "kind": pa.string(), "licence": pa.string()}),
})  # fmt: skip


def read(source: Source, *, chunk: Count = 1600, licence: str = "", work: Work) -> Records:
    """Documents → Records, one row a chunk, in the order of file names.

    Columns: id, document (id of the file or row), title, heading ("A > B"), text, origin {file (relative to its
    source), page (from 1; pdf and pptx), line (csv, jsonl), offset (characters in the text taken from the file), kind,
    licence}. Ids depend on name, offset and text only.

    Raises MetierError for a source that is not there, a broken jsonl line, or when nothing could be read.
    """
    files = _files.find(source)
    dropped: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    batch: list[Row] = []
    path = work.folder / "reading.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        with work.progress("reading documents", len(files)) as bar:
            for file in files:
                try:
                    found = 0
                    for document in documents(file):
                        rows = list(_chunks(file.name, document, chunk, licence))
                        batch += rows
                        found += bool(rows)
                        kinds[document.kind] += bool(rows)
                        if len(batch) >= ROWS_A_BATCH:
                            with writing(path):  # else a full disk would pass for a file that cannot be opened
                                writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
                            batch = []
                    if not found:
                        raise Unreadable("empty")
                except (Unreadable, OSError) as error:
                    reason = str(error) if isinstance(error, Unreadable) else f"cannot be opened ({error.strerror})"
                    dropped[reason] += 1
                    work.log(event="dropped", file=file.name, reason=reason)
                bar.advance(1, file.name)
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
    records = Records(read_table(path))
    path.unlink()  # the open map keeps the rows until the artefact is saved
    if not len(records):
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items()))
        raise MetierError(f"data.ingest.documents: no text could be read from {', '.join(source)} ({reasons})")
    work.log(event="read", files=len(files), kept=len(files) - sum(dropped.values()), dropped=dict(dropped),
             documents=dict(kinds), chunks=len(records))  # fmt: skip
    return records


fingerprints = {"read": _files.fingerprint}
checks = {"read": _files.find}


def _chunks(name: str, document: Document, size: int, licence: str) -> Iterator[Row]:
    owner = name if document.line is None else f"{name}:{document.line}"
    title = document.title or chunking.title(document.text) or Path(name.removesuffix(".gz")).stem
    for base, window in _windows(document.text):
        for piece in chunking.chunks(window, size, typeset=document.kind == "pdf"):
            offset = base + piece.start
            page = bisect.bisect_right(document.pages, offset) if document.pages else None
            yield {
                "id": _short(owner, str(offset), piece.text),
                "document": _short(owner),
                "title": title,
                "heading": piece.heading,
                "text": piece.text,
                "origin": {"file": name, "page": page, "line": document.line, "offset": offset,
                           "kind": document.kind, "licence": licence},
            }  # fmt: skip


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """(offset, part) of a text too long to cut at once; parts end at a blank line, a line end, or anywhere."""
    start = 0
    while len(text) - start > WINDOW:
        end = start + WINDOW
        for mark in ("\n\n", "\n"):
            if (at := text.rfind(mark, start + WINDOW // 2, end)) > 0:
                end = at + len(mark)
                break
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]
