"""One file → its documents, by format: what a name and the first bytes say it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from metier.data.ingest import _decode, _files, _rows
from metier.data.ingest._decode import Unreadable
from metier.text import roff

LARGEST = 256 << 20  # bytes of a file; more must be divided first

KINDS = {
    "pdf": "pdf", "docx": "docx", "pptx": "pptx", "html": "html", "htm": "html", "xhtml": "html", "md": "markdown",
    "markdown": "markdown", "csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "": "text", "txt": "text",
    "text": "text", "rst": "text", "adoc": "text", "org": "text",
}  # fmt: skip
ZIPPED = {"docx", "pptx"}


@dataclasses.dataclass(frozen=True)
class Document:
    """The text of a file, or of one row of it."""

    text: str
    kind: str
    title: str = ""
    pages: list[int] | None = None  # where each page or slide begins, characters
    line: int | None = None  # of a row


def documents(file: _files.File) -> Iterator[Document]:
    """The documents in a file: itself, or its rows. Raises Unreadable, OSError, or MetierError for a broken row."""
    if file.fault is not None:
        raise file.fault
    if file.size > LARGEST:
        raise Unreadable(f"larger than {LARGEST >> 20} MiB")
    name, data = "" if file.path is None else file.path.name, file.data()
    if name.endswith(".gz") or data.startswith(b"\x1f\x8b"):
        name, data = name.removesuffix(".gz"), _decode.gunzip(data, LARGEST)
    kind = _kind(name, data, file.chosen)
    if not data.strip():
        raise Unreadable("empty")
    if kind == "pdf":
        from metier.data.ingest import _pdf  # half a second to import, and most folders hold none

        text, pages = _pdf.read(data)
        yield Document(text, kind, pages=pages)
    elif kind in ("docx", "pptx", "html"):
        from metier.data.ingest import _office  # two seconds to import

        if kind == "html":
            text, title = _office.html(data)
            yield Document(text, kind, title=title)
        elif kind == "pptx":
            text, pages = _office.pptx(data)
            yield Document(text, kind, pages=pages)
        else:
            yield Document(_office.docx(data), kind)
    elif kind in ("csv", "jsonl"):
        decoded = _decode.text(data)
        tab = "\t" if name.endswith(".tsv") else None
        rows = _rows.csv_rows(decoded, tab) if kind == "csv" else _rows.jsonl_rows(decoded, file.name)
        for line, text in _rows.documents(rows):
            yield Document(text, kind, line=line)
    else:
        decoded = _decode.text(data)
        if roff.looks_like(decoded):
            if not (page := roff.plain(decoded)):
                raise Unreadable("only points to another page")
            yield Document(page, "man")
        else:
            yield Document(decoded, kind)


def _kind(name: str, data: bytes, chosen: bool) -> str:
    suffix = Path(name).suffix.lower().lstrip(".")
    if data.startswith(b"%PDF-"):
        return "pdf"
    kind = KINDS.get(suffix)
    if kind is None and (re.fullmatch(r"[1-9][a-z]*", suffix) or chosen):
        kind = "text"
    if kind is None:
        raise Unreadable(f"not a document format (.{suffix})")
    if kind in ZIPPED and data and not data.startswith(b"PK"):
        raise Unreadable("encrypted" if data.startswith(b"\xd0\xcf\x11\xe0") else f"damaged {kind}")
    if kind == "text" and re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)\b", data[:200], re.IGNORECASE):
        return "html"
    return kind
