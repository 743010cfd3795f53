"""Laws of every method."""

from __future__ import annotations

import math
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from metier import artefacts as kinds
from metier import catalogue, options, recipe, runner
from metier.artefacts import Records
from metier.calls import flat
from metier.laws.case import Case, artefacts, digest
from metier.options import MetierError
from metier.store import Work

# room → its first inputs and what it gives; where inputs may differ, none are named
CONTRACTS: dict[str, tuple[tuple[str, ...], str]] = {
    "data.ingest": ((), "Records"),
    "data.edit": (("data",), "Records"),
    "data.synthesize": (("data",), "Records"),
    "data.answer": (("data",), "Records"),
    "data.refine": (("data",), "Records"),
    "data.select": (("data",), "Scores"),
    "data.mix": (("sources",), "Scores"),
    "train.objective": (("model", "batch"), "Tensor"),
    "train.term": (("model", "batch"), "Tensor"),
    "train.parameters": (("network",), "Trainable"),
    "train.optimizer": (("groups",), "Optimizer"),
    "train.schedule": (("done",), "float"),
    "train.loop": (("model", "data", "setup"), "Model"),
    "train.rounds": (("model", "data", "setup"), "Model"),
    "compose.merge": (("base", "experts", "here"), "Tensor"),
    "compose.delta": (("model", "part"), "Model"),
    "infer.context": (("chat",), "Chat"),
    "infer.decode": ((), "Chat"),
    "route": (("chats",), "Chat"),
    "guard": (("chat",), "Chat"),
    "evaluate": (("chats",), "Report"),
    "analyse": (("reports",), "Report"),
    "tasks": ((), "Task"),
}
SLOTS = {"train.objective", "train.term", "train.parameters", "train.optimizer", "train.schedule", "compose.merge"}


def signature_fits_the_room(case: Case) -> None:
    inputs, gives = CONTRACTS.get(case.method.room, ((), ""))
    if case.method.verb != catalogue.ROOMS[case.method.room]:
        inputs, gives = (), ""  # fit, make and attach take what they need
    names = tuple(o.name for o in case.method.options if not o.option)
    assert names[: len(inputs)] == inputs, f"takes ({', '.join(names)}), the room gives ({', '.join(inputs)})"
    made = case.method.returns.rpartition(".")[2]
    assert made == gives if gives else made in (*kinds.KINDS, "Chat"), f"gives {made}"


def no_two_options_share_a_name(case: Case) -> None:
    names = [parameter.name for parameter in flat(case.function) if parameter.kind != "work"]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"two options are called '{', '.join(twice)}': its own, and one of every training step"


def options_have_a_type_with_a_range(case: Case) -> None:
    for parameter in options.parameters(case.function):
        if parameter.option and parameter.kind == "value":
            assert not _bare(parameter.annotation), f"'{parameter.name}' is a number without a range"


def bad_options_are_refused_in_one_sentence(case: Case) -> None:
    for parameter in flat(case.function):
        if parameter.option and parameter.kind == "value":
            said = [_said(case, parameter, bad) for bad in (object(), math.nan, "no such value", -1e99, [[object()]])]
            assert any(said), f"'{parameter.name}' takes anything"
            start = f"{case.method.name}: '{parameter.name}' must be "
            assert all(s.startswith(start) and "\n" not in s for s in said if s), said
    slot = case.method.room in SLOTS
    said_of_unknown = _objection(lambda: recipe.bind("x", case.method, {"no_such_option": 1}, {}, deferred=slot))
    assert said_of_unknown.startswith(f"{case.method.name}: has no option 'no_such_option'"), said_of_unknown


def runs_on_the_toy(case: Case, folder: Path) -> None:
    made = case.run(folder)
    wanted = case.method.returns.rpartition(".")[2]
    if wanted == "Chat":
        assert hasattr(made, "reply") and hasattr(made, "logprobs"), f"gave {type(made).__name__}"
        return
    assert type(made).__name__ == wanted, f"gave {type(made).__name__}"
    place = folder if isinstance(made, kinds.Model | kinds.Part) else folder / "saved"
    place.mkdir(exist_ok=True)
    made.save(place)
    assert type(made).load(place).digest == made.digest, "another digest after saving and loading"


def the_same_again_gives_the_same(case: Case, folder: Path) -> None:
    """Each time with a home of its own: else replies kept the first time (`lm.ask`) would be read the second time."""
    found = []
    for name in ("one", "two"):
        with _home(folder / f"home {name}"):
            found.append(digest(case.run(folder / name)))
    assert found[0] == found[1], "the second time it gives something else"


def inputs_stay_as_they_were(case: Case, folder: Path) -> None:
    inputs = case.inputs(Work(folder))
    held = [a for value in inputs.values() for a in artefacts(value)]
    before = [digest(a) for a in held]
    made = case.function(**inputs)
    if hasattr(made, "reply"):
        digest(made)
    assert [digest(a) for a in held] == before, "an input was changed"


def empty_data_is_refused_in_one_sentence(case: Case, folder: Path) -> None:
    inputs = case.inputs(Work(folder))
    changed = {name: _emptied(value) for name, value in inputs.items()}
    if all(changed[name] is inputs[name] for name in inputs):
        return

    def run() -> None:
        for name, value in changed.items():
            runner.refuse_empty(case.method.name, name, value)
        made = case.function(**changed)
        if hasattr(made, "reply"):
            digest(made)

    _objection(run)


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """``METIER_HOME`` is this folder meanwhile."""
    before = os.environ.get("METIER_HOME")
    os.environ["METIER_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["METIER_HOME"]
        if before is not None:
            os.environ["METIER_HOME"] = before


def _bare(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        marks = annotation.__metadata__
        return annotation.__origin__ in (int, float) and not marks
    if typing.get_origin(annotation) is Literal:
        return False
    inner = typing.get_args(annotation)
    return any(map(_bare, inner)) if inner else annotation in (int, float)


def _said(case: Case, parameter: options.Parameter, bad: Any) -> str:
    try:
        options.checked(case.method.name, parameter, bad)
    except MetierError as error:
        return str(error)
    return ""


def _objection(run: Any) -> str:
    """The sentence of the MetierError that must come."""
    try:
        run()
    except MetierError as error:
        assert str(error).strip() and "\n" not in str(error), f"not one sentence: {error}"
        return str(error)
    raise AssertionError("nothing was refused")


def _emptied(value: Any) -> Any:
    if isinstance(value, Records):
        return Records(value.table.slice(0, 0))
    if isinstance(value, dict) and any(isinstance(v, Records) for v in value.values()):
        return {k: _emptied(v) for k, v in value.items()}
    if isinstance(value, list) and any(isinstance(v, Records) for v in value):
        return [_emptied(v) for v in value]
    return value
