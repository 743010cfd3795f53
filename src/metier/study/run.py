"""Runs the cells of a study one after the other through one store, so that what they share is computed once.

Killed at any point, the same call goes on. A cell that fails is told with its sentence, and tried again by the next
call; the others still run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metier import options, runner
from metier.artefacts import Report, Task
from metier.calls import Call, Ref, references
from metier.options import MetierError
from metier.runner import Done
from metier.store import Progress, Store, home, silent
from metier.study import page, results
from metier.study.plan import COSTS, Cell, Claim, Ran, Study, needed
from metier.study.read import read
from metier.study.results import scalars

PLAIN = "evaluate.compare"  # asks what its tasks name; others make measures of their own
FAULTS = (MetierError, ArithmeticError, RuntimeError, ValueError)  # what a method may meet; anything else is a mistake


@dataclasses.dataclass(frozen=True)
class Show:
    """What is told while it works: the callbacks of `runner.run`, and one for every cell."""

    progress: Progress = silent
    started: Callable[[str, str], None] = lambda name, use: None
    finished: Callable[[Done], None] = lambda done: None
    cell: Callable[[str], None] = lambda words: None


def run(path: Path, out: Path | None = None, store: Store | None = None, show: Show = Show()) -> dict[str, Any]:
    """Runs the study and writes ``results.json``, ``README.md``, ``plot.svg`` and ``index.html`` beside it (or to
    ``out``); returns the results.

    Raises MetierError before the first minute of work for whatever can be known, with file and line.
    """
    study = read(path)
    place = out or path.parent
    page.refuse(place)
    store = store or Store(home())
    measured = _measured(study, store, show)
    ran: list[Ran] = []
    for i, cell in enumerate(study.cells):
        show.cell(f"{i + 1} of {len(study.cells)}: {cell.label}")
        ran.append(_ran(study, cell, store, show))
        if ran[-1].error:
            show.cell(f"  failed: {ran[-1].error}")
        elif measured is not None:
            told = measured | set(dict(scalars(ran[-1]))) | _told(ran[-1])
            _refuse_unknown(study, [c for c in study.claims if c.about(cell)], told)
    facts = results.facts(study, ran)
    page.write(place, facts)
    return facts


def _ran(study: Study, cell: Cell, store: Store, show: Show) -> Ran:
    steps: list[Done] = []

    def finished(done: Done) -> None:
        steps.append(done)
        show.finished(done)

    reports: dict[str, Report] = {}
    error = None
    try:
        done = runner.run(cell.calls, store, show.progress, show.started, finished)
        reports = {name: done[name].open() for name in study.reports}
    except FAULTS as fault:
        error = str(fault) if isinstance(fault, MetierError) else f"{type(fault).__name__}: {fault}"
    trained = [d.open().notes for d in steps if d.use.startswith("train.")]
    cost = {
        "seconds": round(sum(d.seconds for d in steps), 3),
        "tokens_trained": sum(notes.get("tokens_trained", 0) for notes in trained),
        "parameters_trained": max((notes.get("parameters_trained", 0) for notes in trained), default=0),
        "peak_memory_bytes": max((d.peak_memory_bytes for d in steps), default=0),
    }
    seconds = {d.key: (d.use, d.seconds) for d in steps}
    return Ran(cell, reports, {d.name: d.key for d in steps}, seconds, cost, error)


def _measured(study: Study, store: Store, show: Show) -> set[str] | None:
    """Makes the tasks, which name their measures, before anything is trained or asked, so that a claim about a measure
    that does not exist stops the study here. None when a task cannot be made: the cells will tell.
    """
    known, own = {f"cost.{name}" for name in COSTS}, False
    for cell in {cell.arm: cell for cell in reversed(study.cells)}.values():
        above = {call.name: call for call in cell.calls}
        for report in (call for call in cell.calls if call.name in study.reports):
            only = report.arguments.get("only")
            own |= report.method.name != PLAIN
            for task in _tasks(report.arguments, above):
                inline = [task] if isinstance(task, Call) else []
                names = [r.name for r in references(task.arguments)] if isinstance(task, Call) else [task.name]
                calls = [*needed(cell.calls, names), *inline]
                try:
                    made: Task = runner.run(calls, store, show.progress, show.started, show.finished)[task.name].open()
                except FAULTS:
                    return None
                asked = {m: how for m, how in made.measures.items() if only is None or m in only}
                known |= {f"{made.name}.{name}" for name in [*asked, *(how.pool for how in asked.values() if how.pool)]}
    # Numbers of a report, and measures that it makes itself, are known with the first cell.
    later = {m for m in study.metrics if own or m.partition(".")[0] in study.reports}
    _refuse_unknown(study, study.claims, known | later)
    return known


def _told(ran: Ran) -> set[str]:
    """The measures in the reports of a cell, also those that a method of `evaluate` made."""
    tasks = [task for report in ran.reports.values() for task in report.numbers.get("tasks", {}).items()]
    return {f"{name}.{measure}" for name, facts in tasks for measure in facts["measures"]}


def _refuse_unknown(study: Study, claims: Sequence[Claim], known: set[str]) -> None:
    for claim in claims:
        for metric in claim.metrics:
            if metric not in known:
                raise options.unknown(f"{study.path.name}, line {claim.line}: the study", metric, known, "metric")


def _tasks(value: Any, above: Mapping[str, Call]) -> list[Ref | Call]:
    """The tasks in the arguments of a step, named or written in place."""
    if isinstance(value, Ref):
        return [value] if value.part is None and above[value.name].method.returns == "Task" else []
    if isinstance(value, Call):
        return [value] if value.method.returns == "Task" else _tasks(value.arguments, above)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [task for v in inner for task in _tasks(v, above)]
