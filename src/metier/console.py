"""What a run shows while it works: a line per finished step, a bar with the time left for the one at work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metier.options import printable

if TYPE_CHECKING:
    from metier.runner import Done
    from metier.store import Bar

PLAIN_EVERY = 15.0  # seconds between lines where no bar can be drawn


class Display:
    """Draws on standard error, so that ``--json`` and tables on standard output stay clean."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self.bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False), console=self.console, transient=True,
        )  # fmt: skip
        self.current: TaskID | None = None

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def started(self, name: str, use: str) -> None:
        self.current = self.bars.add_task(f"{name}  {use}", total=None, note="")

    def finished(self, done: Done) -> None:
        if self.current is not None:
            self.bars.remove_task(self.current)
        took = "kept from before" if done.cached else f"{done.seconds:.1f} s"
        self.say(f"  {done.name:<16} {done.use:<28} {took}")

    def say(self, words: str) -> None:
        self.console.print(printable(words), soft_wrap=True)  # in a narrow terminal or a file a line stays one line

    @contextmanager
    def progress(self, label: str, total: float) -> Iterator[Bar]:
        if not total:
            self.say(f"    {label}")
        task = self.bars.add_task(f"  {label}", total=total or None, note="")
        try:
            yield _Drawn(self, task, label, total)
        finally:
            self.bars.remove_task(task)


class _Drawn:
    def __init__(self, display: Display, task: TaskID, label: str, total: float) -> None:
        self.display, self.task, self.label, self.total = display, task, label, total
        self.done, self.begun, self.said = 0.0, time.monotonic(), time.monotonic()

    def advance(self, units: float = 1, note: str = "") -> None:
        self.done += units
        self.display.bars.update(self.task, advance=units, note=printable(note))
        now = time.monotonic()
        if (
            not self.display.console.is_terminal
            and now - self.said > PLAIN_EVERY
            and self.total
            and self.done > self.total / 50
        ):
            self.said = now
            left = (now - self.begun) * (self.total - self.done) / self.done
            self.display.say(f"    {self.label}: {self.done / self.total:.0%}, {left:.0f} s left {note}")
