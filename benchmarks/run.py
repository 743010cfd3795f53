"""``python -m benchmarks.run [NAME …]``: measures, prints the table, and keeps it in ``results.json``.

A benchmark is a module here with ``rows() -> Iterator[Row]``; those named are measured, or all. Rows that were not
measured this time stay as they are. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from typing import Any

from benchmarks.harness import HERE, Row
from rich.console import Console
from rich.table import Table

RESULTS = HERE / "results.json"
MODULES = (
    "commands", "loss_memory", "lomo", "generation", "choice", "duplicates", "ingest", "training",
    "gradient_masks", "sparse", "preflight",
)  # fmt: skip


def main() -> None:
    unknown = set(sys.argv[1:]) - set(MODULES)
    if unknown:
        raise SystemExit(f"no benchmark called {', '.join(sorted(unknown))}; there are: {', '.join(MODULES)}")
    for name in sys.argv[1:] or MODULES:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            keep(row)
            table([row])
    table(read())


def read() -> list[Row]:
    """The rows on disk."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    fields = [f.name for f in dataclasses.fields(Row)]
    return [Row(**{name: row[name] for name in fields}) for row in kept]


def keep(row: Row) -> None:
    """In the place of the same work against the same peer on the same machine."""
    key = (row.work, row.against, row.machine)
    rows = read()
    at = next((i for i, r in enumerate(rows) if (r.work, r.against, r.machine) == key), len(rows))
    rows[at : at + 1] = [row]
    plain: list[dict[str, Any]] = [dataclasses.asdict(r) | {"met": r.met} for r in rows]
    RESULTS.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(rows: list[Row]) -> None:
    shown = Table("work", "against", "ratio", "range", "bar", "", "machine")
    for r in rows:
        met = {True: "met", False: "missed", None: ""}[r.met]
        shown.add_row(r.work, r.against, _told(r.ratio), f"{_told(r.low)}–{_told(r.high)}", r.bar, met, r.machine)
    Console().print(shown)


def markdown(rows: list[Row]) -> str:
    """The rows with a bar, as they stand in README.md, by machine."""
    lines = []
    for on in dict.fromkeys(r.machine for r in rows if r.bar):
        lines += [f"| on {on} | against | ratio (range) | bar |", "|---|---|---|---|"]
        for r in (r for r in rows if r.bar and r.machine == on):
            missed = " (missed)" if r.met is False else ""
            ranged = f" ({_told(r.low)}–{_told(r.high)})" if r.low != r.high else ""
            unit = f" {r.unit}" if r.against == "–" else ""
            lines.append(f"| {r.work} | {r.against} | {_told(r.ratio)}{unit}{ranged} | {r.bar}{missed} |")
    return "\n".join(lines)


def _told(value: float) -> str:
    return f"{value:.2f}" if value >= 0.05 else f"{value:.2g}"


if __name__ == "__main__":
    main()
