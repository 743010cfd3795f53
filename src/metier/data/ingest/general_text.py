"""General English that travels with metier, cut like documents: for replay and control.

Encyclopaedia articles, stories and essays with free licences (each record names its own). Mixed into training it
keeps general skills; trained on alone, for as many steps, it shows what any text would have changed. It shares no
document with the passages on which general skills are measured.

Options:
    chunk: characters a chunk aims at, as in `data.ingest.documents`.
"""

from __future__ import annotations

from metier.artefacts import Records
from metier.general import data
from metier.options import Count
from metier.store import Work
from metier.text import chunk as chunking


def read(*, chunk: Count = 1600, work: Work) -> Records:
    """Records with the columns of `data.ingest.documents`."""
    rows = []
    for document in data.replay():
        title = chunking.title(document["text"]) or document["id"]
        for piece in chunking.chunks(document["text"], chunk):
            rows.append({
                "id": f"{document['id']}:{piece.start}",
                "document": document["id"],
                "title": title,
                "heading": piece.heading,
                "text": piece.text,
                "origin": {"file": document["source"], "page": None, "line": None, "offset": piece.start,
                           "kind": "general", "licence": document["licence"]},
            })  # fmt: skip
    work.log(event="general text", chunks=len(rows))
    return Records.from_rows(rows)
