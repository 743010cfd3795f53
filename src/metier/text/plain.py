"""What a record says as plain text, without a template: what was asked, and on the next line the reply."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
GOOD = 0.5  # a reply that is rated alone counts as good above


def asked_and_said(record: Row) -> tuple[list[Row] | str, str] | None:
    """The turns (or the text) before the last reply, and the reply; of preferences, the best one.

    None for a record that has none, or none that is good.
    """
    if record.get("messages"):
        *before, last = record["messages"]
        return (before, last["content"]) if before and last["role"] == "assistant" else None
    if record.get("replies"):
        rated = [(s, r) for s, r in zip(record["scores"] or [], record["replies"], strict=True) if s is not None]
        score, best = max(rated, key=lambda pair: pair[0], default=(0.0, ""))
        return (record["prompt"], best) if len(rated) > 1 or score > GOOD else None
    return (record["prompt"], record["completion"]) if record.get("prompt") and record.get("completion") else None


def before(asked: list[Row] | str) -> str:
    """What stands before a reply: a line a turn, or the text that the reply goes on with."""
    return asked if isinstance(asked, str) else "".join(f"{turn['content']}\n" for turn in asked)


def plain(record: Row) -> str:
    """A text as it is; of anything else what was asked and the reply. Empty without a reply."""
    if record.get("text"):
        return str(record["text"])
    found = asked_and_said(record)
    return before(found[0]) + found[1] if found else ""
