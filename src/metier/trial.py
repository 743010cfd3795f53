"""Measures what a recipe will take: runs what needs no model, and tries two steps or a few rows of the rest.

What ran for real is in the store, so the run finds it done. What was tried lies in a folder that is thrown away.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metier import memory, options
from metier.artefacts import Report, Task
from metier.calls import Call, Ref, references
from metier.preflight import Estimate, Need, foresee, uses_model
from metier.runner import Done, Runner
from metier.store import Bar, Progress, Store, Work, silent

STEPS = 2  # of every training
Piece = tuple[str, str, str]  # chat, task, measure
FEW, MORE = 6, 18  # rows of every measure: the difference knows nothing of loading


def measure(calls: list[Call], store: Store, progress: Progress = silent) -> Estimate:
    """Raises whatever a step that needs no model raises: bad input comes out before anything is trained."""
    done: dict[str, Done] = {}
    runner = Runner(store, progress, done, time.monotonic())
    foreseen = {need.step: need for need in foresee(calls).needs}
    needs: list[Need] = []
    loose: set[str] = set()  # steps whose result is a stand-in, or is not there
    for number, call in enumerate(calls):
        if "budget" in call.arguments and uses_model(call):  # what follows is made to fit
            rest = [foreseen[later.name] for later in calls[number:]]
            return Estimate([*needs, *rest], float(call.arguments["budget"]))
        above = {ref.name for ref in references(call.arguments)}
        outside = runner.always(call) and call.method.returns != "Chat"  # it would write where the user looks
        if outside or not above <= set(done) or (above & loose and not uses_model(call)):
            # What asks no model takes no time worth telling; what asks one cannot be tried without its inputs.
            seconds = None if uses_model(call) else 0.0
            needs.append(Need(call.name, call.method.name, seconds, 0, 0))
            loose.add(call.name)
        elif call.method.returns == "Chat" or not (above & loose or _heavy(call, runner)):
            done[call.name] = runner.step(call)
            needs.append(Need(call.name, call.method.name, 0.0, done[call.name].peak_memory_bytes, 0, kept=True))
            loose |= {call.name} if above & loose else set()
        else:
            memory.forget_peak()
            seconds, done[call.name] = _try(runner, call, progress)
            needs.append(Need(call.name, call.method.name, seconds, memory.peak(), foreseen[call.name].disk))
            loose.add(call.name)
    return Estimate(needs)


def _heavy(call: Call, runner: Runner) -> bool:
    return uses_model(call) and runner.store.manifest(runner.key(call)) is None


def _try(runner: Runner, call: Call, progress: Progress) -> tuple[float, Done]:
    """Seconds the whole step would take, and what stands for its result."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if any(p.kind == "spread" for p in options.parameters(call.function)):
            return _train(runner, call, folder)
        if "tasks" in call.arguments:
            return _ask(runner, call, folder)
        begun = time.monotonic()
        made = runner.compute(call, Work(folder, progress, list(runner.done.values()), begun))
        return time.monotonic() - begun, _done(call, made)


class _Enough(Exception):
    """Two steps were seen."""


class _Clock:
    """A progress bar that notes when training moves, and stops it after two steps."""

    def __init__(self) -> None:
        self.made = time.monotonic()
        self.at: list[float] = []
        self.total = 0

    @contextmanager
    def __call__(self, label: str, total: float) -> Iterator[Bar]:
        if label != "training":
            with silent(label, total) as bar:
                yield bar
            return
        self.total, self.at = int(total), [time.monotonic()]
        yield self

    def advance(self, units: float = 1, note: str = "") -> None:
        if units:
            self.at.append(time.monotonic())
            if len(self.at) > STEPS:
                raise _Enough

    def seconds(self, looks: int) -> float:
        """Of the whole training: loading, the looks at dev, and the steps at the pace of the last one."""
        loading = self.at[0] - self.made
        first, step = self.at[1] - self.at[0], self.at[-1] - self.at[-2]
        look = max(first - step, 0.0) if looks else 0.0
        return loading + first + (self.total - 1) * step + max(looks - 1, 0) * look


def _train(runner: Runner, call: Call, folder: Path) -> tuple[float, Done]:
    clock = _Clock()
    try:
        made = runner.compute(call, Work(folder, clock, list(runner.done.values()), time.monotonic()))
        return time.monotonic() - clock.made, _done(call, made)
    except _Enough:
        start = call.arguments["model"]
        stand_in = runner.done[start.name] if isinstance(start, Ref) else runner.step(start)
        every = call.arguments.get("evaluate_every")
        looks = 0 if call.arguments.get("dev") is None else 1 + (math.ceil(clock.total / every) if every else 5)
        return clock.seconds(looks), _done(call, stand_in.open())


def _ask(runner: Runner, call: Call, folder: Path) -> tuple[float, Done]:
    """From two trials with a few and with more rows of every measure, each carried on to all its rows."""
    spent: list[dict[Piece, tuple[int, float]]] = []
    sizes: dict[tuple[str, str], int] = {}
    report: Report | None = None
    for rows in (FEW, MORE):
        work = Work(folder / str(rows))
        arguments = runner.filled(call, work)
        sizes = {(t.name, m): n for t in arguments["tasks"] for m, n in Counter(t.records.column("measure")).items()}
        report = call.function(**arguments | {"tasks": [_cut(task, rows) for task in arguments["tasks"]]})
        measured = [row for row in work.rows() if row.get("event") == "measured"]
        spent.append({(r["chat"], r["task"], r["measure"]): (r["rows"], r["seconds"]) for r in measured})
    total = 0.0
    for piece, (many, longer) in spent[1].items():
        few, shorter = spent[0][piece]
        pace = max(longer - shorter, 0.0) / (many - few) if many > few else 0.0
        total += longer + pace * (sizes[piece[1:]] - many)
    return total, _done(call, report)


def _cut(task: Task, rows: int) -> Task:
    """The task with so many rows of every measure, evenly spread."""
    measures = task.records.column("measure")
    kept: list[int] = []
    for measure in dict.fromkeys(m for m in measures if m is not None):
        places = [i for i, m in enumerate(measures) if m == measure]
        count = min(rows, len(places))
        kept += [places[round(k * (len(places) - 1) / max(count - 1, 1))] for k in range(count)]
    return dataclasses.replace(task, records=task.records.take(sorted(set(kept))))


def _done(call: Call, made: Any) -> Done:
    """What stands for a step's result in the trials of the steps behind it."""
    return Done(call.name, call.method.name, "trial", f"trial:{call.name}", {}, 0.0, False, 0, lambda: made, list)
