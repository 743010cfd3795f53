"""How well models foresee texts: bits per byte, and perplexity per token, in windows.

For choosing between models and for watching a corpus; texts need no questions. Two measures, a row per text each, so
that paired tests work: *bits_per_byte* compares models with different tokenizers, *nats_per_token* and its exponential,
the perplexity, only models that share one. Every token is scored once, the first one behind the mark between documents.

    bits per byte = Σ −log₂ p(text) / Σ bytes        perplexity = exp(Σ −log p(text) / Σ tokens)

Records have `text`, or `prompt` (text) and `completion`: then the completion is scored. Texts of one `group` or one
`document` are not independent of each other.

Options:
    window: tokens a model may look back on, its own included; all it can when not given.
    stride: new tokens a window, for texts longer than one; half of the window when not given.
Raises: MetierError when no record has a text.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from metier.artefacts import Measure, Records, Report, Row, Task
from metier.evaluate import _ask
from metier.lm.chat import Chat
from metier.options import Count, MetierError
from metier.store import Work

NEEDS = {"access": "logits"}
Window = Annotated[int, Field(ge=2)]
BITS, NATS = "bits_per_byte", "nats_per_token"
MEASURES = {
    BITS: Measure("read", "domain", "bits per byte", "lower", "texts", "Bits a model needs for each byte of text."),
    NATS: Measure("read", "domain", "nats per token", "lower", "texts, by token",
                  "Nats a model needs for each of its own tokens; only for models with one tokenizer."),
}  # fmt: skip


def measure(
    chats: dict[str, Chat], data: Records, *, window: Window | None = None, stride: Count | None = None, work: Work
) -> Report:
    """Rows as of `evaluate.compare`; ``totals`` of *nats_per_token* hold ``perplexity`` too."""
    rows = [row for row in map(_asked, data) if row["text"]]
    if not rows:
        raise MetierError("evaluate.perplexity: the data has no text to read")
    task = Task("texts", "evaluate.perplexity", Records.from_rows(rows), MEASURES)

    def ask(chat: Chat, task: Task, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
        found = _ask.read(chat, rows, advance, window, stride)
        made = []
        for r, (nats, tokens) in zip(rows, found, strict=True):
            made.append(_ask.made(BITS, r, -nats / math.log(2), len(r["text"].encode()), gold=r["text"]))
            made.append(_ask.made(NATS, r, -nats, tokens))
        return made, sum(tokens for _, tokens in found)

    found = _ask.collect("evaluate.perplexity", chats, [task], ask, work, facts=(window, stride))
    return _ask.report([task], found)


def total(measure: str, rows: list[Row]) -> dict[str, float]:
    if measure != NATS:
        return {}
    return {"perplexity": math.exp(sum(r["value"] for r in rows) / sum(r["weight"] for r in rows))}


def _asked(row: Row) -> Row:
    prompt, text = ("", row.get("text")) if row.get("text") else (row.get("prompt") or "", row.get("completion"))
    if not isinstance(prompt, str):
        raise MetierError(f"evaluate.perplexity: record {row['id']!r}: its prompt must be text, not messages")
    cluster = row.get("group") or row.get("document") or row["id"]
    return {"id": row["id"], "measure": BITS, "cluster": cluster, "prompt": prompt, "text": text or ""}
