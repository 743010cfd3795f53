"""Value types with ranges, the reading of signatures, and the one error sentence.

A method's keyword-only parameters are its options. What an annotation says decides how a recipe may
fill it: a *value* (number, word, list, map), an *artefact* (Records, Model, Chat …), a *method* of
another room, the *Work* of the running step, or a dataclass whose fields are *spread* into the step.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

LONGEST = 600  # characters of an error sentence


def printable(text: str) -> str:
    """On one line, with what a terminal would obey written out as ``\\x1b``."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class MetierError(Exception):
    """Bad input, said in one sentence that names the file, line or option.

    What it quotes may hold line breaks, control characters or a book: the sentence stays one line that can be read.
    """

    def __init__(self, sentence: str) -> None:
        line = printable(sentence)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 3 :]}")


def tally(counts: Mapping[str, int]) -> str:
    """How often there was each reason, for a sentence: "2 × too short, 1 × empty"."""
    return ", ".join(f"{n} × {reason}" for reason, n in counts.items())


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclasses.dataclass(frozen=True)
class Room:
    """Marks an annotation as "a method of this room, with its options bound"."""

    name: str


@dataclasses.dataclass(frozen=True)
class Outside:
    """Marks a value that names something outside the store: a source to read, a place to write.

    It stays out of the step's key. A method whose module has ``fingerprints = {verb: function}`` is keyed by that
    function's digest of what lies there; one without runs every time.
    """


Source = Annotated[list[str], Outside()]
Place = Annotated[str, Outside()]


def _duration(value: Any) -> Any:
    """Seconds, or "90s", "10m", "2h"."""
    units = {"s": 1, "m": 60, "h": 3600}
    if isinstance(value, str) and value[-1:] in units:
        return float(value[:-1]) * units[value[-1]]  # a ValueError here becomes the one sentence
    return value


@dataclasses.dataclass(frozen=True)
class Words:
    """What to call a value in error sentences and help, where its type says too little."""

    text: str


Duration = Annotated[
    float,
    pydantic.BeforeValidator(_duration),
    Field(gt=0, allow_inf_nan=False),
    Words("a time such as 600, 90s, 10m or 2h"),
]

Parameters = Annotated[Callable[..., Any], Room("train.parameters")]
Objective = Annotated[Callable[..., Any], Room("train.objective")]
Term = Annotated[Callable[..., Any], Room("train.term")]
Optimizer = Annotated[Callable[..., Any], Room("train.optimizer")]
Schedule = Annotated[Callable[..., Any], Room("train.schedule")]
Train = Annotated[Callable[..., Any], Room("train.loop")]
Merge = Annotated[Callable[..., Any], Room("compose.merge")]

Access = Literal["text", "top-k", "logits", "weights"]  # to a model; each gives what those before it give
ACCESS: tuple[Access, ...] = typing.get_args(Access)

Kind = Literal["value", "artefact", "method", "spread", "work"]
REQUIRED = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a method: name, what may fill it, its default, and whether it is an option (after ``*``)."""

    name: str
    annotation: Any
    kind: Kind
    default: Any
    option: bool

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclasses.dataclass(frozen=True)
class Bound:
    """A method with its options bound: what a slot or an ``inner`` argument receives."""

    name: str
    function: Callable[..., Any]
    values: Mapping[str, Any]

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs, **self.values)

    @property
    def module(self) -> types.ModuleType:
        found = inspect.getmodule(self.function)
        assert found is not None
        return found


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Reads a method's parameters off its signature, in order; spread dataclasses stay one parameter."""
    hints = typing.get_type_hints(function, include_extras=True)
    return tuple(
        Parameter(p.name, hints[p.name], kind_of(hints[p.name]), p.default, p.kind is p.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    )


@functools.cache
def gives_artefact(function: Callable[..., Any]) -> bool:
    """Whether a method's result can pass between steps."""
    returned = typing.get_type_hints(function).get("return")
    return any(getattr(leaf, "ROLE", None) == "artefact" for leaf in leaves_of(returned))


@functools.cache
def fields(cls: type) -> tuple[Parameter, ...]:
    """The fields of a spread dataclass, read like options."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for f in dataclasses.fields(cls):
        default = f.default if f.default is not dataclasses.MISSING else REQUIRED
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        found.append(Parameter(f.name, hints[f.name], kind_of(hints[f.name]), default, True))
    return tuple(found)


def kind_of(annotation: Any) -> Kind:
    """What may fill a parameter, by the leaves of its annotation."""
    leaves = list(leaves_of(annotation))
    if any(isinstance(leaf, Room) for leaf in leaves):
        return "method"
    for leaf in leaves:
        role = getattr(leaf, "ROLE", None)
        if role is not None:
            return role
    return "value"


def outside(parameter: Parameter) -> bool:
    """Whether the parameter names something outside the store."""
    return any(isinstance(leaf, Outside) for leaf in leaves_of(parameter.annotation))


def room_of(annotation: Any) -> str:
    """The room a method annotation names."""
    return next(leaf.name for leaf in leaves_of(annotation) if isinstance(leaf, Room))


def leaves_of(annotation: Any) -> Iterable[Any]:
    """The classes and markers inside unions, lists, maps and Annotated, outermost first."""
    if typing.get_origin(annotation) is Annotated:
        base, *marks = typing.get_args(annotation)
        yield from marks
        yield from leaves_of(base)
    elif typing.get_args(annotation) and typing.get_origin(annotation) is not Literal:
        for argument in typing.get_args(annotation):
            yield from leaves_of(argument)
    else:
        yield annotation


def checked(owner: str, parameter: Parameter, value: Any) -> Any:
    """The value an option takes, converted and range-checked.

    Raises MetierError: ``train.objective.talr: 'tau' must be greater than 0, got -1``.
    """
    if isinstance(value, bool) and not any(leaf in (bool, Any, object) for leaf in leaves_of(parameter.annotation)):
        raise MetierError(f"{owner}: '{parameter.name}' must be {describe(parameter.annotation)}, got {value!r}")
    try:
        return _adapter(parameter.annotation).validate_python(value)
    except pydantic.ValidationError as error:
        raise MetierError(f"{owner}: '{parameter.name}' must be {_wanted(parameter, error)}, got {value!r}") from None


def unknown(owner: str, name: str, known: Iterable[str], what: str = "option") -> MetierError:
    """The sentence for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; it has: {', '.join(known) or 'none'}"
    return MetierError(f"{owner}: has no {what} '{name}'{hint}")


def describe(annotation: Any) -> str:
    """A range in words, for error sentences, help and docs."""
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) is Annotated:
        base, *marks = typing.get_args(annotation)
        for mark in marks:
            if isinstance(mark, Words):
                return mark.text
            if isinstance(mark, Room):
                return f"a method of {mark.name}"
        bounds = [words for mark in marks for words in _bounds(mark)]
        return _noun(base) + (" " + " and ".join(bounds) if bounds else "")
    return _noun(annotation)


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _wanted(parameter: Parameter, error: pydantic.ValidationError) -> str:
    words = {
        "greater_than": "greater than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "finite_number": "a finite number",
    }
    problems = error.errors()
    if len(problems) == 1 and problems[0]["type"] in words:
        return words[problems[0]["type"]].format(**problems[0].get("ctx", {}))
    return describe(parameter.annotation)


def _bounds(mark: Any) -> Iterable[str]:
    for part in getattr(mark, "metadata", [mark]):
        for attribute, words in (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most")):
            if getattr(part, attribute, None) is not None:
                yield f"{words} {getattr(part, attribute)}"


def _noun(annotation: Any) -> str:
    nouns = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    if annotation in nouns:
        return nouns[annotation]
    origin = typing.get_origin(annotation)
    if origin in (list, tuple):
        return "a list of " + " or ".join(_plural(describe(a)) for a in typing.get_args(annotation))
    if origin is dict:
        return f"a map of names to {_plural(describe(typing.get_args(annotation)[1]))}"
    return getattr(annotation, "__name__", str(annotation))


def _plural(noun: str) -> str:
    """ "a number greater than 0" → "numbers greater than 0"; names of classes and "text" stay as they are."""
    article, _, rest = noun.partition(" ")
    if article not in ("a", "an"):
        return noun
    for one, many in (("number", "numbers"), ("method", "methods"), ("map", "maps"), ("list", "lists")):
        if one in rest.split():
            return rest.replace(one, many, 1)
    return rest
