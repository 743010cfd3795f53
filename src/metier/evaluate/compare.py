"""Asks one or many chats the same rows of one or many tasks, and keeps every answer.

For before and after, for control arms, for a model beside the same one with retrieval. A measure is asked as its task
says: *read* gives the bits of a text, *choose* whether the likeliest choice is the right one, *write* the grades of a
reply. One row per chat, measure and record stays, so that paired tests and new totals need no second run. What is
finished of a run that was killed is not asked again.

    total of a chat and measure = Σ value / Σ weight        (bits / bytes; right answers / answers)

Options:
    only: the measures to ask, as far as the task has rows for them; all when not given.
    max_tokens: length of a written reply, at most.
Raises: MetierError when there is nothing to ask, two tasks share a name, or a task cannot grade replies.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from metier.artefacts import Measure, Report, Row, Task
from metier.disk import read_table, text_digest, write_table
from metier.lm.chat import Chat, Sampling
from metier.options import Count, MetierError, unknown
from metier.store import Work

Advance = Callable[[float], None]
SCHEMA = pa.schema({
    "task": pa.string(), "measure": pa.string(), "chat": pa.string(), "id": pa.string(), "cluster": pa.string(),
    "value": pa.float64(), "weight": pa.float64(), "prompt": pa.string(), "gold": pa.string(), "reply": pa.string(),
})  # fmt: skip
CHARACTERS = 4.0  # a token, about: only for the progress bar


def measure(
    chats: dict[str, Chat], tasks: list[Task], *, only: list[str] | None = None, max_tokens: Count = 48, work: Work
) -> Report:  # fmt: skip
    """Rows: task, measure, chat, id, cluster, value, weight, prompt, gold, reply.

    Numbers: ``totals`` {chat: {task: {measure: {value, n}}}}, ``tasks`` (measures and notes of each),
    ``cost`` {seconds, tokens}.
    """
    if not chats or not tasks or not all(asked(task) for task in tasks):
        raise MetierError("evaluate.compare: there is no chat, no task or no row to ask")
    if len({task.name for task in tasks}) < len(tasks):
        raise MetierError("evaluate.compare: two tasks have the same name")
    known = [m for task in tasks for m in task.measures]
    for wanted in only or []:
        if wanted not in known:
            raise unknown("evaluate.compare", wanted, known, "measure")
    pieces = [
        (name, task, m, rows)
        for name in chats for task in tasks for m, rows in asked(task).items() if only is None or m in only
    ]  # fmt: skip
    tables, seconds, tokens = [], 0.0, 0.0
    with work.progress("measuring", sum(_size(rows, max_tokens) for *_, rows in pieces)) as bar:
        for i, (name, task, m, rows) in enumerate(pieces):
            table, cost = _piece(
                name, chats[name], task, m, rows, max_tokens, work, _steady(bar, _size(rows, max_tokens))
            )
            tables.append(table)
            seconds, tokens = seconds + cost["seconds"], tokens + cost["tokens"]
            if i + 1 == len(pieces) or pieces[i + 1][0] != name:
                chats[name].close()
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    facts = {
        t.name: {"measures": {n: dataclasses.asdict(m) for n, m in t.measures.items()}, "notes": t.notes} for t in tasks
    }
    return Report({"totals": totals(rows), "tasks": facts,
                   "cost": {"seconds": round(seconds, 2), "tokens": int(tokens)}}, rows)  # fmt: skip


def asked(task: Task) -> dict[str, list[Row]]:
    """The rows a task asks, by the measure they are asked under; rows without one are not asked."""
    rows: dict[str, list[Row]] = {}
    for row in task.records.where([m is not None for m in task.records.column("measure")]):
        rows.setdefault(row["measure"], []).append(row)
    return rows


def totals(rows: pa.Table) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Σ value / Σ weight and the number of rows, by chat, task and measure."""
    found: dict[str, Any] = {}
    grouped = rows.group_by(["chat", "task", "measure"]).aggregate(
        [("value", "sum"), ("weight", "sum"), ("id", "count")]
    )
    for row in grouped.sort_by([(c, "ascending") for c in ("chat", "task", "measure")]).to_pylist():
        place = found.setdefault(row["chat"], {}).setdefault(row["task"], {})
        place[row["measure"]] = {"value": row["value_sum"] / row["weight_sum"], "n": row["id_count"]}
    return found


def _piece(
    name: str, chat: Chat, task: Task, measure: str, rows: list[Row], max_tokens: int, work: Work, advance: Advance
) -> tuple[pa.Table, dict[str, float]]:
    """One measure of one chat, from an earlier, unfinished run where it has it."""
    key = text_digest(chat.digest, task.digest, measure, str(max_tokens))[:24]
    path = work.folder / "checkpoints" / f"{key}.arrow"
    known = next((r for r in work.rows() if r.get("event") == "measured" and r["key"] == key), None)
    if known is None or not path.exists():
        begun = time.monotonic()
        made, tokens = _ask(chat, task, measure, rows, max_tokens, advance)
        _save(pa.Table.from_pylist([{"task": task.name, **r} for r in made], SCHEMA), path)
        known = {"key": key, "chat": name, "task": task.name, "measure": measure, "rows": len(rows), "tokens": tokens,
                 "seconds": round(time.monotonic() - begun, 3)}  # fmt: skip
        work.log(event="measured", **known)
    advance(math.inf)
    table = read_table(path)  # two names for one model share what was measured
    at = SCHEMA.get_field_index("chat")
    return table.set_column(at, "chat", pa.array([name] * len(table), pa.string())), known


def _ask(
    chat: Chat, task: Task, measure: str, rows: list[Row], max_tokens: int, advance: Advance
) -> tuple[list[Row], float]:
    how = task.measures[measure]
    if how.ask == "read":
        return _read(chat, measure, rows, advance)
    if how.ask == "choose":
        return _choose(chat, measure, how, rows, advance)
    return _write(chat, task, rows, max_tokens, advance)


def _read(chat: Chat, measure: str, rows: list[Row], advance: Advance) -> tuple[list[Row], float]:
    found = chat.logprobs([r["prompt"] for r in rows], [r["text"] for r in rows], advance=advance)
    made = [
        _row(measure, r, value=-f.sum / math.log(2), weight=len(r["text"].encode()), gold=r["text"])
        for r, f in zip(rows, found, strict=True)
    ]
    return made, sum(f.tokens for f in found)


def _choose(chat: Chat, measure: str, how: Measure, rows: list[Row], advance: Advance) -> tuple[list[Row], float]:
    prompts = [r["prompt"] for r in rows for _ in r["choices"]]
    choices = [c for r in rows for c in r["choices"]]
    found = iter(chat.logprobs(prompts, choices, advance=advance))
    made, tokens = [], 0
    for r in rows:
        scored = [next(found) for _ in r["choices"]]
        lengths = [len(c.encode()) if how.normalise == "bytes" else 1 for c in r["choices"]]
        values = [s.sum / n for s, n in zip(scored, lengths, strict=True)]
        best = values.index(max(values))
        tokens += sum(s.tokens for s in scored)
        made.append(
            _row(measure, r, value=float(best == r["gold"]), gold=r["choices"][r["gold"]], reply=r["choices"][best])
        )
    return made, tokens


def _write(chat: Chat, task: Task, rows: list[Row], max_tokens: int, advance: Advance) -> tuple[list[Row], float]:
    conversations = [[{"role": "user", "content": r["prompt"]}] for r in rows]
    replies = chat.reply(conversations, Sampling(max_tokens), advance)
    grades = task.grade(rows, replies)
    made = [
        _row(name, r, value=value, gold=r.get("reference") or "", reply=reply.text)
        for r, reply, graded in zip(rows, replies, grades, strict=True)
        for name, value in graded.items()
    ]
    return made, sum(r.tokens for r in replies)


def _row(measure: str, row: Row, *, value: float, weight: float = 1.0, gold: str = "", reply: str = "") -> Row:
    return {"measure": measure, "id": row["id"], "cluster": row["cluster"], "value": value, "weight": weight,
            "prompt": row["prompt"], "gold": gold, "reply": reply}  # fmt: skip


def _save(table: pa.Table, path: Path) -> None:
    write_table(table, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def _size(rows: list[Row], max_tokens: int) -> float:
    """Tokens to be scored or written, about."""
    texts = (t for r in rows for t in [r.get("text") or "", *(r.get("choices") or [])])
    return sum(map(len, texts)) / CHARACTERS + max_tokens * sum(not (r.get("text") or r.get("choices")) for r in rows)


def _steady(bar: Any, size: float) -> Advance:
    """Tells the bar of at most ``size`` units, however the tokens were estimated; infinity means done."""
    left = size

    def advance(units: float) -> None:
        nonlocal left
        step = min(units, left)
        left -= step
        bar.advance(step)

    return advance
