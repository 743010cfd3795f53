"""Which laws a method is under, and whether it keeps them.

A law is a public function of a file here: it takes a Case (and a fresh folder, where it writes) and asserts. A method
file may take itself out with ``EXEMPT = {"law": "reason"}``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from metier import catalogue
from metier.catalogue import ROOMS, Method
from metier.laws import common
from metier.laws.case import Bench, Case
from metier.options import MetierError

FILES = {
    "data.ingest": ["records"],
    "data.edit": ["records"],
    "data.synthesize": ["records"],
    "data.answer": ["records"],
    "data.refine": ["records"],
    "data.select": ["scores"],
    "data.mix": ["scores"],
    "train.objective": ["objective"],
    "train.term": ["term"],
    "train.parameters": ["parameters"],
    "train.optimizer": ["optimizer"],
    "train.schedule": ["schedule"],
    "train.loop": ["loop"],
    "train.rounds": ["loop"],
    "compose.merge": ["merge"],
    "infer.context": ["wrap"],
    "infer.decode": ["wrap"],
    "route": ["wrap"],
    "guard": ["wrap"],
    "evaluate": ["evaluate"],
    "tasks": ["tasks"],
}
STATIC = ("signature_fits_the_room", "options_have_a_type_with_a_range", "bad_options_are_refused_in_one_sentence")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether one law holds, and if not, why."""

    law: str
    holds: bool | None  # None: the file takes itself out
    why: str


def laws(method: Method) -> dict[str, Callable[..., None]]:
    """By name: the common laws, and those of the room for its own verb."""
    own = FILES.get(method.room, []) if method.verb == ROOMS[method.room] else []
    files = [importlib.import_module(f"metier.laws.{name}") for name in own]
    found = {law.__name__: law for file in (common, *files) for law in _laws(file)}
    if method.room in common.SLOTS:  # their inputs are no artefacts: their own laws run them
        found = {n: law for n, law in found.items() if n in STATIC or law.__module__ != common.__name__}
    return found


def keep(method: Method, law: str, bench: Bench, folder: Path) -> Verdict:
    """Tries one law in an empty folder."""
    case = Case(method, bench)
    try:
        exempt = getattr(case.file, "EXEMPT", {})
    except MetierError as missing:
        return Verdict(law, None, str(missing))
    if law in exempt:
        return Verdict(law, None, exempt[law])
    tried = laws(method)[law]
    arguments = (case, folder) if "folder" in inspect.signature(tried).parameters else (case,)
    try:
        tried(*arguments)
    except (AssertionError, MetierError) as error:
        return Verdict(law, False, str(error) or "it does not hold")
    except NotImplementedError:  # as `metier new` wrote it
        return Verdict(law, False, "its maths is not filled in")
    return Verdict(law, True, "")


def unknown_exemptions(method: Method) -> set[str]:
    """Names in EXEMPT that are no law of this method."""
    try:
        exempt = getattr(sys.modules[catalogue.load(method).__module__], "EXEMPT", {})
    except MetierError:
        return set()  # an extra is missing
    return set(exempt) - set(laws(method))


def _laws(file: object) -> Iterator[Callable[..., None]]:
    for name, law in vars(file).items():
        if inspect.isfunction(law) and law.__module__ == getattr(file, "__name__", "") and not name.startswith("_"):
            yield law
