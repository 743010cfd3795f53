"""How much of a model each step may see: text < top-k < logits < weights, known before anything runs.

A method file says what its chats must give (``NEEDS = {"access": "logits"}``), a wrap what it leaves (``GIVES``, or
``gives(options)``), a task what it takes to answer it (``NEEDS = {"chats": "logits"}``, or a map of its measures).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from metier import options
from metier.calls import Call, Ref, flat
from metier.options import ACCESS, Access, MetierError


def refuse(call: Call, above: Mapping[str, Call]) -> None:
    """Raises MetierError naming the chat that gives too little for the call."""
    needed, why = _needs(call, above)
    for chat in _inputs(call, "Chat", above):
        given = of(chat, above)
        if ACCESS.index(given) < ACCESS.index(needed):
            raise MetierError(
                f"{call.method.name}: {why} needs a model that gives {needed}, and '{chat.name}' gives {given}"
            )


def of(call: Call, above: Mapping[str, Call]) -> Access:
    """What a Model or Chat that this call makes gives: a wrap no more than the least of what it is made of."""
    if call.method.returns != "Chat":
        return "weights"
    module = _module(call)
    own: Access = getattr(module, "GIVES", "weights")
    if hasattr(module, "gives"):
        own = module.gives(dict(call.arguments))
    return min([own, *(of(chat, above) for chat in _inputs(call, "Chat", above))], key=ACCESS.index)


def needs(call: Call) -> dict[str, Any]:
    """What the file of a method declares: NEEDS, or ``needs(options)``."""
    module = _module(call)
    found: dict[str, Any] = module.needs(dict(call.arguments)) if hasattr(module, "needs") else getattr(
        module, "NEEDS", {}
    )  # fmt: skip
    return found


def _needs(call: Call, above: Mapping[str, Call]) -> tuple[Access, str]:
    own = needs(call).get("access")
    if own is not None:
        return own, "it"
    only = call.arguments.get("only")
    worst: Access = "text"
    why = "it"
    for task in _inputs(call, "Task", above):
        declared = needs(task).get("chats", "text")
        measures = declared if isinstance(declared, dict) else {task.method.name: declared}
        for measure, level in measures.items():
            asked = only is None or not isinstance(declared, dict) or measure in only
            if asked and ACCESS.index(level) > ACCESS.index(worst):
                worst, why = level, f"'{measure}'" if isinstance(declared, dict) else measure
    return worst, why


def _inputs(call: Call, kind: str, above: Mapping[str, Call]) -> Iterator[Call]:
    """The calls behind the arguments that take a Chat, or a Task."""
    for parameter in flat(call.function):
        names = {getattr(leaf, "__name__", "") for leaf in options.leaves_of(parameter.annotation)}
        if kind in names and parameter.name in call.arguments:
            for found in _calls(call.arguments[parameter.name], above):
                if found.method.returns == kind or (kind == "Chat" and found.method.returns == "Model"):
                    yield found


def _calls(value: Any, above: Mapping[str, Call]) -> Iterator[Call]:
    if isinstance(value, Ref):
        if value.part is None:
            yield above[value.name]
    elif isinstance(value, Call):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _calls(inner, above)
    elif isinstance(value, list):
        for inner in value:
            yield from _calls(inner, above)


def _module(call: Call) -> ModuleType:
    return sys.modules[call.function.__module__]
