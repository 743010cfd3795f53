"""What a recipe becomes: steps as written, calls with their arguments bound, references between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from metier import catalogue, options
from metier.options import Parameter


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of a recipe as written."""

    name: str
    use: str
    given: Mapping[str, Any]
    line: int


@dataclasses.dataclass(frozen=True)
class Ref:
    """``$name`` or ``$name.part``: an artefact of a step above, a split of it, or a number in it."""

    name: str
    part: str | None


@dataclasses.dataclass(frozen=True)
class Call:
    """A method with its arguments bound: a step, an artefact written in place, or a method in a slot."""

    name: str
    method: catalogue.Method
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    deferred: bool  # a method for a slot: handed over unrun


def references(value: Any) -> list[Ref]:
    """The steps that an argument names, wherever it does."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, Call):
        return references(value.arguments)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [found for one in inner for found in references(one)]


def describe(value: Any) -> Any:
    """Bound arguments as plain JSON, for manifests and pages."""
    if isinstance(value, Call):
        return {"use": value.method.name} | {k: describe(v) for k, v in value.arguments.items()}
    if isinstance(value, Ref):
        return f"${value.name}" + (f".{value.part}" if value.part else "")
    if isinstance(value, Mapping):
        return {k: describe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    return value


def flat(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters with spread dataclasses replaced by their fields."""
    flat: list[Parameter] = []
    for parameter in options.parameters(function):
        if parameter.kind == "spread":
            flat.extend(options.fields(spread_class(parameter)))
        else:
            flat.append(parameter)
    return flat


def spread_class(parameter: Parameter) -> Any:
    return next(leaf for leaf in options.leaves_of(parameter.annotation) if getattr(leaf, "ROLE", None) == "spread")
