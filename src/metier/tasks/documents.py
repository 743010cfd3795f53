"""How well a model knows a field: bits per byte, gaps and questions of held-out documents.

For a field that lies in documents, split beforehand without leak (`steps.split`). Three measures of the test split:
*bits_per_byte*, a row a chunk: how many bits the model needs for each byte of the text, given the headings above it;
*cloze*: which of four words of the document belongs into a gap, given the text before it; *questions*: a dozen
questions made from definitions and headings, answered in words, to be read side by side. Bits per byte is not question
answering, and the overlap of a reply with one sentence of the document is no judgement of the reply.

The task also holds the chunks of train and dev as they are: ``$domain.train`` and ``$domain.dev``.
Many chunks are drawn evenly from the groups of documents, so that no long document speaks for all.

Options:
    cloze: gaps at most; fewer where the text offers no fair ones, none at all under eight.
    questions: questions at most; 0 leaves them out.
    bytes: text read for bits per byte, at most.
    seed: decides which chunks, gaps and questions are taken.
Raises: MetierError when the data has no column split or no test chunks.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from metier.artefacts import Measure, Records, Row, Task
from metier.options import Count, MetierError, Natural, Seed
from metier.tasks import _cloze, _questions
from metier.text.match import token_f1 as token_f1

NEEDS = {"chats": {"bits_per_byte": "logits", "cloze": "logits", "questions": "text"}}
LEAST_GAPS = 8
READ = Measure(
    "read", "domain", "bits per byte", "lower", "held-out documents",
    "How many bits the model needs for each byte of documents it has not seen.",
)  # fmt: skip
CLOZE = Measure(
    "choose", "domain", "accuracy", "higher", "words in gaps",
    "Which of four words of the same unseen document belongs into a gap, from the text before it.", chance=0.25,
)  # fmt: skip
QUESTIONS = Measure(
    "write", "domain", "F1", "higher", "questions",
    "Words that a reply shares with the sentence of the unseen document; read the replies, not the number.",
)  # fmt: skip


def make(data: Records, *, cloze: Natural = 64, questions: Natural = 12, bytes: Count = 24_000, seed: Seed = 0) -> Task:
    chunks = list(data.part("test"))
    if not chunks:
        raise MetierError("tasks.documents: the data has no chunks in its test split")
    turn = in_turn(chunks, seed)
    gaps = _cloze.items(turn, cloze, body=without_heading, above=heading_lines, corpus=data.column("text"), seed=seed)
    asked = _questions.items(turn, questions, body=without_heading)
    rows = [_read(chunk) for chunk in _up_to(turn, bytes)]
    rows += gaps if len(gaps) >= LEAST_GAPS else []
    rows += asked
    measures = {"bits_per_byte": READ, "cloze": CLOZE, "questions": QUESTIONS}
    found = Counter(row["measure"] for row in rows)
    kept = pa.concat_tables(
        [data.where([s in ("train", "dev") for s in data.column("split")]).table, _table(rows)],
        promote_options="permissive",
    )
    notes = {
        "bytes": sum(len(t.encode()) for t in data.column("text")),
        "test_bytes": sum(len(c["text"].encode()) for c in chunks),
        "rows": dict(found),
        "groups": len({c["group"] for c in chunks}),
    }
    return Task("domain", "tasks.documents", Records(kept), measures, notes)


def grade(records: list[Row], replies: list[Any]) -> list[dict[str, float]]:
    """How many words a reply shares with the sentence it is asked for (F1, 0 to 1)."""
    return [{"questions": token_f1(reply.text, row["reference"])} for row, reply in zip(records, replies, strict=True)]


def heading_lines(chunk: Row) -> str:
    """The headings a chunk stands under, a line each, the title of the document first; they end in a blank line."""
    path = [part for part in (chunk.get("heading") or "").split(" > ") if part]
    title = chunk.get("title")
    lines = path if not title or title in path else [title, *path]
    return "\n".join(lines) + "\n\n" if lines else ""


def without_heading(chunk: Row) -> str:
    """The text of a chunk after the heading it begins with, if it begins with one."""
    text: str = chunk["text"]
    for part in (chunk.get("heading") or "").split(" > "):
        start = re.match(rf"#*[ ]*{re.escape(part)}[ ]*\n\s*", text) if part else None
        text = text[start.end() :] if start and start.end() < len(text) else text
    return text


def in_turn(chunks: list[Row], seed: int) -> list[Row]:
    """One chunk of every group, then a second of every group, and so on; groups and chunks in a seeded order."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Row]] = defaultdict(list)
    for at in rng.permutation(len(chunks)):
        groups[chunks[at]["group"]].append(chunks[at])
    rounds = max(map(len, groups.values()))
    return [members[i] for i in range(rounds) for members in groups.values() if i < len(members)]


def _up_to(chunks: list[Row], size: int) -> list[Row]:
    taken: list[Row] = []
    total = 0
    for chunk in chunks:
        total += len(chunk["text"].encode())
        if taken and total > size:
            break
        taken.append(chunk)
    return taken


def _read(chunk: Row) -> Row:
    return {
        "id": f"read/{chunk['id']}", "measure": "bits_per_byte", "cluster": chunk["group"], "title": chunk["title"],
        "heading": chunk["heading"], "prompt": heading_lines(chunk), "text": without_heading(chunk),
    }  # fmt: skip


def _table(rows: list[Row]) -> pa.Table:
    names = ("id", "measure", "cluster", "title", "heading", "prompt", "text", "choices", "gold", "reference")
    kinds = {"choices": pa.list_(pa.string()), "gold": pa.int64()}
    columns = {n: pa.array([row.get(n) for row in rows], kinds.get(n, pa.string())) for n in names}
    return pa.table(columns | {"split": ["test"] * len(rows)})
