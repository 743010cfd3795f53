"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from metier.options import MetierError


def facts_of(folder: Path) -> dict[str, Any]:
    """What ``report.json`` holds. Raises MetierError when it is no report."""
    try:
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not facts.keys() >= {"measures", "headline"}:
        raise MetierError(f"show: {folder / 'report.json'} is no report of metier")
    return facts


def conclude(facts: dict[str, Any], out: Path, as_json: bool) -> None:
    """The numbers of a specialist's report."""
    from metier import report

    if as_json:
        print_json(facts)
        return
    header, *rows = report.table(facts)
    table(list(header), [list(row) for row in rows])
    print(f"\n{facts['headline']}\n")
    for remark in report.remarks(facts):
        print(f"- {remark}")
    print(f"\nreport: {out / 'report.html'}")


def show_method(name: str, as_json: bool) -> None:
    """A method's card and its options."""
    from metier import calls, catalogue, options, signatures

    method = catalogue.find(name, "show")
    try:
        parameters = signatures.flat(method.path, method.verb)
    except signatures.Unread:
        parameters = calls.flat(catalogue.load(method))
    rows = []
    for p in parameters:
        if p.kind != "work" and (p.option or p.kind != "value"):
            default = "needed" if p.required else str(p.default)
            rows.append({"option": p.name, "takes": options.describe(p.annotation), "default": default})
    if as_json:
        print_json({"name": method.name, "room": method.room, "doc": method.doc, "returns": method.returns,
                     "options": rows})  # fmt: skip
    else:
        print(f"{method.name}\n\n{method.doc.strip()}\n")
        table(["option", "takes", "default"], [list(r.values()) for r in rows])


def table(header: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")  # where the terminal is narrow nothing is cut off
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def print_json(value: Any) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "none"
    print(json.dumps(value, indent=1, ensure_ascii=not encoding.lower().startswith("utf"), default=str))
