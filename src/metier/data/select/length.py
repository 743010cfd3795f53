"""How long a record is, in words, characters or bytes; too short or too long drops it.

For data from many hands, where one-word answers and runaway texts teach little, and for keeping the longest or, with
`order`, for going from short to long. Everything a record says counts (text, or all turns, prompt and replies), or one
column alone. It knows no tokenizer, so it serves any model; tokens of English are about 4 characters. Not a judgement
of quality.

    score = number of words (runs of letters, digits and _), characters, or bytes of UTF-8

Options:
    unit: what is counted.
    column: a column to measure instead of the whole record; *reply* is the completion or the assistant's last turn.
    shortest: records below are dropped.
    longest: records above are dropped.
Raises: MetierError when there is no such column, it holds no text, or ``shortest`` is above ``longest``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from metier import shapes
from metier.artefacts import Records, Row, Scores
from metier.options import Count, MetierError, Natural

NAME = "data.select.length"
WORD = re.compile(r"\w+")


def score(
    data: Records,
    *,
    unit: Literal["words", "characters", "bytes"] = "words",
    column: str | None = None,
    shortest: Natural = 1,
    longest: Count | None = None,
) -> Scores:
    """One row a record: its length, or why it is dropped; ``length`` holds the number in either case."""
    if longest is not None and longest < shortest:
        raise MetierError(f"{NAME}: 'longest' must be at least 'shortest' ({shortest}), got {longest}")
    return Scores.from_rows(_judged(data, unit, column, shortest, longest))


def length(text: str, unit: str) -> int:
    if unit == "words":
        return sum(1 for _ in WORD.finditer(text))
    return len(text.encode("utf-8", "replace")) if unit == "bytes" else len(text)


def _judged(data: Records, unit: str, column: str | None, shortest: int, longest: int | None) -> Iterator[Row]:
    if column not in (None, "reply"):
        data.column(column)  # says which columns there are
    for row in data:
        found = length(_measured(row, column), unit)
        reason = f"under {shortest} {unit}" if found < shortest else None
        if longest is not None and found > longest:
            reason = f"over {longest} {unit}"
        yield {"id": row["id"], "score": None if reason else float(found), "reason": reason, "length": found}


def _measured(row: Row, column: str | None) -> str:
    if column is None:
        return shapes.words(row)
    value = _reply(row) if column == "reply" else row[column]
    if value is not None and not isinstance(value, str):
        value = shapes.words({column: value})
    return value or ""


def _reply(row: Row) -> str:
    turns = row.get("messages") or []
    last = next((turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), "")
    return row.get("completion") or last
