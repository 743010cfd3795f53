"""EXAMPLE of a method's file with the bench's artefacts and methods in it."""

from __future__ import annotations

from typing import Any

from metier import catalogue, options
from metier.options import Parameter
from metier.train.setup import method as bound_method


def methods(parameter: Parameter, value: Any) -> Any:
    """Names of methods as methods, where an option takes one or several."""
    if parameter.kind != "method":
        return value
    if isinstance(value, list):
        return [methods(parameter, v) for v in value]
    room = options.room_of(parameter.annotation)
    return bound_method(room, catalogue.ROOMS[room], value) if isinstance(value, str) else value


def example(value: Any, bench: Any) -> Any:
    """``{documents}`` inside a text is a place of the bench; ``$records`` and ``$records.dev`` are its artefacts.

    ``$train.parameters.das.fit`` is what that method makes.
    """
    if isinstance(value, str) and value[:1] == "$" and value[1:] in catalogue.methods():
        return bench.made(value[1:])
    if isinstance(value, str) and value.startswith("$"):
        name, _, part = value[1:].partition(".")
        found = getattr(bench, name)
        return found.part(part) if part else found
    if isinstance(value, str):
        for name, place in bench.places.items():
            value = value.replace(f"{{{name}}}", place)
        return value
    if isinstance(value, dict):
        return {k: example(v, bench) for k, v in value.items()}
    if isinstance(value, list):
        return [example(v, bench) for v in value]
    return value
