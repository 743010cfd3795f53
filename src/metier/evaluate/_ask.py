"""Asking: the rows of tasks to every chat, kept piece by piece, so that a run that was killed asks nothing twice."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from metier.artefacts import Measure, Report, Row, Task
from metier.disk import read_table, text_digest, write_table
from metier.lm.chat import Chat, Reply, Sampling
from metier.options import MetierError, unknown
from metier.store import Work

Advance = Callable[[float], None]
# (chat, task, measure, rows, advance) → rows of the report and tokens
Asker = Callable[[Chat, Task, str, list[Row], Advance], tuple[list[Row], float]]
Ask = Literal["read", "choose", "write"]
SCHEMA = pa.schema({
    "task": pa.string(), "measure": pa.string(), "chat": pa.string(), "id": pa.string(), "cluster": pa.string(),
    "value": pa.float64(), "weight": pa.float64(), "prompt": pa.string(), "gold": pa.string(), "reply": pa.string(),
})  # fmt: skip
CHARACTERS = 4.0  # a token, about: only for the progress bar


@dataclasses.dataclass(frozen=True)
class Asked:
    """The rows of a report, and what they cost."""

    rows: pa.Table
    seconds: float
    tokens: float


def collect(
    owner: str, chats: Mapping[str, Chat], tasks: Sequence[Task], ask: Asker, work: Work, *, facts: Sequence[object],
    only: Sequence[str] | None = None, kinds: Sequence[Ask] = ("read", "choose", "write"), reply_tokens: int = 0,
) -> Asked:  # fmt: skip
    """Every chat asked the rows of all measures of these ``kinds`` (and named by ``only``).

    ``facts`` are the options a row depends on; ``reply_tokens`` the length of a reply, for the progress bar.
    Raises MetierError when there is nothing to ask, or two tasks share a name.
    """
    by_task = {t.name: {m: r for m, r in asked(t).items() if t.measures[m].ask in kinds} for t in tasks}
    if not chats or not tasks or not all(by_task.values()):
        what = "" if len(kinds) > 1 else f" to {kinds[0]}"
        raise MetierError(f"{owner}: there is no chat, no task or no row{what or ' to ask'}")
    if len(by_task) < len(tasks):
        raise MetierError(f"{owner}: two tasks have the same name")
    known = [m for task in tasks for m in task.measures]
    for wanted in only or []:
        if wanted not in known:
            raise unknown(owner, wanted, known, "measure")
    pieces = [
        (name, task, m, rows)
        for name in chats for task in tasks for m, rows in by_task[task.name].items() if only is None or m in only
    ]  # fmt: skip
    tables, seconds, tokens = [], 0.0, 0.0
    with work.progress("measuring", sum(_size(rows, reply_tokens) for *_, rows in pieces)) as bar:
        for i, (name, task, m, rows) in enumerate(pieces):
            advance = _steady(bar, _size(rows, reply_tokens))
            table, cost = _piece(name, chats[name], task, m, rows, ask, facts, work, advance)
            tables.append(table)
            seconds, tokens = seconds + cost["seconds"], tokens + cost["tokens"]
            if i + 1 == len(pieces) or pieces[i + 1][0] != name:
                chats[name].close()
    return Asked(pa.concat_tables(tables) if tables else SCHEMA.empty_table(), seconds, tokens)


def report(
    tasks: Sequence[Task], found: Asked, derived: Mapping[str, Mapping[str, Measure]] | None = None, **numbers: Any
) -> Report:
    """``derived``: by task, measures that came of asking the task's own; their rows stand among the others."""
    facts: dict[str, Any] = {}
    for task in tasks:
        measures = {**task.measures, **(derived or {}).get(task.name, {})}
        facts[task.name] = {"measures": {n: dataclasses.asdict(m) for n, m in measures.items()}, "notes": task.notes}
    cost = {"seconds": round(found.seconds, 2), "tokens": int(found.tokens)}
    return Report({"totals": totals(found.rows, tasks), "tasks": facts, **numbers, "cost": cost}, found.rows)


def asked(task: Task) -> dict[str, list[Row]]:
    """The rows a task asks, by the measure they are asked under; rows without one are not asked."""
    rows: dict[str, list[Row]] = {}
    for row in task.records.where([m is not None for m in task.records.column("measure")]):
        rows.setdefault(row["measure"], []).append(row)
    return rows


def totals(rows: pa.Table, tasks: Sequence[Task] = ()) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Σ value / Σ weight and the number of rows, by chat, task and measure.

    Where the file of a task has ``total(measure, rows) -> {name: number}``, its numbers stand beside them, and its
    ``value`` takes the place of the ratio: for what is no mean over rows, such as macro F1.
    """
    found: dict[str, Any] = {}
    grouped = rows.group_by(["chat", "task", "measure"]).aggregate(
        [("value", "sum"), ("weight", "sum"), ("id", "count")]
    )
    for row in grouped.sort_by([(c, "ascending") for c in ("chat", "task", "measure")]).to_pylist():
        place = found.setdefault(row["chat"], {}).setdefault(row["task"], {})
        place[row["measure"]] = {"value": row["value_sum"] / row["weight_sum"], "n": row["id_count"]}
    for task in tasks:
        total = getattr(importlib.import_module(f"metier.{task.method}"), "total", None)
        if total is not None:
            own = ((key, r) for key, r in grouped_rows(rows, task.name).items() if key[1] in task.measures)
            for (chat, measure), members in own:
                found[chat][task.name][measure] |= total(measure, members)
    return found


def grouped_rows(rows: pa.Table, task: str) -> dict[tuple[str, str], list[Row]]:
    """The rows of one task by chat and measure, in their order."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows.to_pylist():
        if row["task"] == task:
            found.setdefault((row["chat"], row["measure"]), []).append(row)
    return found


def read(
    chat: Chat, rows: list[Row], advance: Advance, window: int | None = None, stride: int | None = None
) -> list[tuple[float, int]]:
    """Log-probability (nats) and tokens of each text given its prompt."""
    found = chat.logprobs(
        [r["prompt"] for r in rows], [r["text"] for r in rows], window=window, stride=stride, advance=advance
    )
    return [(f.sum, f.tokens) for f in found]


def choose(chat: Chat, rows: list[Row], normalise: str, advance: Advance) -> tuple[list[list[float]], float]:
    """The score of every choice of every row, in nats (per byte when normalised by *bytes*), and the tokens."""
    prompts = [r["prompt"] for r in rows for _ in r["choices"]]
    found = iter(chat.logprobs(prompts, [c for r in rows for c in r["choices"]], advance=advance))
    scores, tokens = [], 0
    for r in rows:
        scored = [next(found) for _ in r["choices"]]
        lengths = [len(c.encode()) if normalise == "bytes" else 1 for c in r["choices"]]
        scores.append([s.sum / n for s, n in zip(scored, lengths, strict=True)])
        tokens += sum(s.tokens for s in scored)
    return scores, tokens


def chosen(measure: str, row: Row, scores: list[float]) -> Row:
    """The row of a choice: 1 when the likeliest choice (the first of equal ones) is the right one."""
    best = scores.index(max(scores))
    return made(measure, row, float(best == row["gold"]), gold=row["choices"][row["gold"]], reply=row["choices"][best])


def write(chat: Chat, rows: list[Row], sampling: Sampling, advance: Advance) -> list[Reply]:
    """``sampling.n`` replies a row, in order."""
    return chat.reply([[{"role": "user", "content": r["prompt"]}] for r in rows], sampling, advance)


def made(measure: str, row: Row, value: float, weight: float = 1.0, gold: str = "", reply: str = "") -> Row:
    """A row of the report, but for its task and chat."""
    return {"measure": measure, "id": row["id"], "cluster": row["cluster"], "value": value, "weight": weight,
            "prompt": row["prompt"], "gold": gold, "reply": reply}  # fmt: skip


def _piece(
    name: str, chat: Chat, task: Task, measure: str, rows: list[Row], ask: Asker, facts: Sequence[object], work: Work,
    advance: Advance,
) -> tuple[pa.Table, dict[str, float]]:  # fmt: skip
    """One measure of one chat, from an earlier, unfinished run where it has it."""
    key = text_digest(chat.digest, task.digest, measure, *map(str, facts))[:24]
    path = work.folder / "checkpoints" / f"{key}.arrow"
    known = next((r for r in work.rows() if r.get("event") == "measured" and r["key"] == key), None)
    if known is None or not path.exists():
        begun = time.monotonic()
        answered, tokens = ask(chat, task, measure, rows, advance)
        write_table(
            pa.Table.from_pylist([{"task": task.name, **r} for r in answered], SCHEMA), path.with_suffix(".tmp")
        )
        path.with_suffix(".tmp").rename(path)
        known = {"key": key, "chat": name, "task": task.name, "measure": measure, "rows": len(rows), "tokens": tokens,
                 "seconds": round(time.monotonic() - begun, 3)}  # fmt: skip
        work.log(event="measured", **known)
    advance(math.inf)
    table = read_table(path)  # two names for one model share what was measured
    at = SCHEMA.get_field_index("chat")
    return table.set_column(at, "chat", pa.array([name] * len(table), pa.string())), known


def _size(rows: list[Row], reply_tokens: int) -> float:
    """Tokens to be scored or written, about."""
    texts = (t for r in rows for t in [r.get("text") or "", *(r.get("choices") or [])])
    return sum(map(len, texts)) / CHARACTERS + reply_tokens * sum(not (r.get("text") or r.get("choices")) for r in rows)


def _steady(bar: Any, size: float) -> Advance:
    """Tells the bar of at most ``size`` units, however the tokens were estimated; infinity means done."""
    left = size

    def advance(units: float) -> None:
        nonlocal left
        step = min(units, left)
        left -= step
        bar.advance(step)

    return advance
