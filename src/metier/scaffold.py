"""Writes a new method and its test from the template of its room: what is left to fill in is the maths."""

from __future__ import annotations

import keyword
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metier import catalogue
from metier.options import MetierError, unknown

TEMPLATES = Path(__file__).parent / "templates" / "new"


def write(full: str, folder: Path) -> list[Path]:
    """Writes ``<folder>/<room>/<name>.py`` and its test, and returns both paths.

    ``full`` is the name a recipe will use, such as ``train.objective.mine``. In metier's own source folder the test
    lies with the others, elsewhere in ``<folder>/tests``. Raises MetierError when the room is not known, the name
    cannot be one, or the method exists.
    """
    room, _, name = full.rpartition(".")
    room = room or catalogue.PLUMBING
    if room not in catalogue.ROOMS:
        raise unknown("new", room, catalogue.ROOMS, "room")
    if not name.isidentifier() or not name.islower() or keyword.iskeyword(name) or name.startswith("_"):
        raise MetierError(f"new: a method's name is a small word such as 'mine' or 'my_loss', got '{name}'")
    full = name if room == catalogue.PLUMBING else f"{room}.{name}"
    if full in catalogue.methods():
        raise MetierError(f"new: '{full}' exists: {catalogue.methods()[full].path}")
    inside = folder.resolve() == catalogue.PACKAGE
    method = folder.joinpath(*room.split(".")) / f"{name}.py"
    tests = catalogue.PACKAGE.parents[1] / "tests" / "methods" / room.rpartition(".")[2] if inside else folder / "tests"
    test = tests / f"test_{name}.py"
    for path in (method, test):
        if path.exists():
            raise MetierError(f"new: '{path}' exists")
    facts = {"full": full, "name": name, "outside": not inside}
    for path, template in ((method, f"{room}.jinja"), (test, "test.jinja")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_environment().get_template(template).render(facts), encoding="utf-8")
    return [method, test]


def _environment() -> Environment:
    # What comes out is Python, so nothing is escaped; nothing from outside is rendered.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["camel"] = lambda name: "".join(part.capitalize() for part in name.split("_"))
    return environment
