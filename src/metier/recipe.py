"""A recipe is a list of steps, read and checked whole before anything runs.

``parse`` keeps line numbers, ``check`` binds every option by the method's signature. ``runner.run`` runs them.
"""

from __future__ import annotations

import copy
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from metier import access, catalogue, options
from metier.calls import Call, Ref, Step, flat, references, spread_class
from metier.options import Bound, MetierError, Parameter

LARGEST = 100_000  # values in a recipe; a few aliases of aliases could stand for more than any memory holds


def parse(text: str, name: str = "recipe", changes: Mapping[str, Any] | None = None) -> list[Step]:
    """Steps of a YAML recipe. ``changes`` are ``{"expert.optimizer.lr": 1e-4}``, applied before anything is checked.

    They reach into slots that the recipe leaves at their default. A map that several steps share by an alias
    (``*adapter``) changes for all of them. Raises MetierError naming file and line.
    """
    root, raw = _yaml(text, name)
    if (
        not isinstance(raw, dict)
        or not all(isinstance(step, str) for step in raw)
        or not isinstance(root, yaml.MappingNode)
    ):
        raise MetierError(f"{name}: a recipe is a map of steps, 'name: {{use: method, …}}'")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        if key.value in lines:
            raise MetierError(f"{name}, line {key.start_mark.line + 1}: the step '{key.value}' stands twice")
        lines[key.value] = key.start_mark.line + 1
    raw = copy.deepcopy(raw)
    for path, value in (changes or {}).items():
        _change(raw, path, value)
    steps = []
    for step, given in raw.items():
        line = lines.get(step, 1)  # a merged map (`<<`) has its steps elsewhere
        if isinstance(given, str):
            given = {"use": given}
        if not isinstance(given, dict) or not isinstance(given.get("use"), str):
            raise MetierError(f"{name}, line {line}: step '{step}' must say which method it uses, '{step}: {{use: …}}'")
        steps.append(Step(step, given["use"], {k: v for k, v in given.items() if k != "use"}, line))
    return steps


def text_of(path: Path) -> str:
    """What stands in the file of a recipe or study. Raises MetierError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise MetierError(f"{path.name}: is no UTF-8 text") from None
    except OSError as error:
        raise MetierError(f"{path.name}: cannot be read ({error.strerror})") from None


def value(text: str, name: str) -> Any:
    """What a piece of YAML means. Raises MetierError beginning with ``name``."""
    return _yaml(text, name)[1]


def check(steps: list[Step], name: str = "recipe") -> list[Call]:
    """Binds every step to its method: names, options, ranges, kinds, references. Raises MetierError with the line."""
    above: dict[str, Call] = {}
    calls = []
    for step in steps:
        try:
            calls.append(bind(step.name, catalogue.find(step.use, step.name), step.given, above))
        except MetierError as error:
            raise MetierError(f"{name}, line {step.line}: {error}") from None
        above[step.name] = calls[-1]
    return calls


def bind(
    name: str, method: catalogue.Method, given: Mapping[str, Any], above: Mapping[str, Call],
    deferred: bool = False,
) -> Call:  # fmt: skip
    """A method with its options checked; ``deferred`` for one that goes into a slot. Raises MetierError."""
    function = catalogue.load(method)
    owner = method.name
    if not deferred and not options.gives_artefact(function):
        raise MetierError(f"{owner}: goes into a slot of another step and is none itself")
    wanted = _wanted(function, deferred)
    for key in given:
        if key not in wanted:
            raise options.unknown(owner, str(key), wanted)
    arguments: dict[str, Any] = {}
    for key, parameter in wanted.items():
        if key in given:
            arguments[key] = _argument(f"{name}.{key}", owner, parameter, given[key], above)
        elif parameter.required:
            raise MetierError(f"{owner}: needs '{key}' ({options.describe(parameter.annotation)})")
        elif parameter.kind == "method" and isinstance(parameter.default, str):
            arguments[key] = _method_argument(f"{name}.{key}", owner, parameter, parameter.default, above)
        elif parameter.kind == "value":
            arguments[key] = parameter.default
    check = getattr(sys.modules[function.__module__], "checks", {}).get(method.verb)
    if check is not None:  # what would make the step fail is found before the first minute of work
        looked_at = {k: v for k, v in arguments.items() if k in inspect.signature(check).parameters}
        if not references(looked_at):
            check(**looked_at)
    call = Call(name, method, function, arguments, deferred)
    access.refuse(call, above)
    for setup in [] if deferred else _spread(function):
        inner = [a for a in arguments.values() if isinstance(a, Call) and a.deferred and _spread(a.function)]
        for loop in (call, *inner):  # a loop inside another one trains with the same setup
            setup.agree(loop.method.name, _bound(arguments), sys.modules[loop.function.__module__])
    return call


def _wanted(function: Callable[..., Any], deferred: bool) -> dict[str, Parameter]:
    """What a recipe may fill; the inputs of a method in a slot, its setup among them, come from whoever calls it."""
    found = [p for p in options.parameters(function) if p.option] if deferred else flat(function)
    return {p.name: p for p in found if p.kind != "work"}


def _spread(function: Callable[..., Any]) -> list[Any]:
    """The dataclasses whose fields are options of the method."""
    return [spread_class(parameter) for parameter in options.parameters(function) if parameter.kind == "spread"]


def _bound(value: Any) -> Any:
    """Methods in slots as they will be handed over; what a step above will give stays a reference."""
    if isinstance(value, Call) and value.deferred:
        return Bound(value.method.name, value.function, _bound(value.arguments))
    if isinstance(value, Mapping):
        return {k: _bound(v) for k, v in value.items()}
    return [_bound(v) for v in value] if isinstance(value, list) else value


def _argument(name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, Call]) -> Any:
    if parameter.kind == "method":
        several = list in _origins(parameter.annotation)
        if value is not None and isinstance(value, list) != several:
            wanted = "a list of methods" if several else "one method"
            raise MetierError(f"{owner}: '{parameter.name}' must be {wanted}, got {value!r}")
        return _method_argument(name, owner, parameter, value, above)
    if parameter.kind == "artefact":
        return _artefact_argument(name, owner, parameter, value, above)
    if _has_reference(value):
        if options.outside(parameter):
            raise MetierError(f"{owner}: '{parameter.name}' lies outside and takes no reference, got {value!r}")
        return _references(owner, parameter.name, value, above)
    return options.checked(owner, parameter, value)


def _method_argument(name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, Call]) -> Any:
    if isinstance(value, list):
        return [_method_argument(name, owner, parameter, v, above) for v in value]
    if value is None:
        return None
    given = {"use": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("use"), str):
        raise MetierError(f"{owner}: '{parameter.name}' must be a method, '{{use: …}}', got {value!r}")
    method = catalogue.find(given["use"], f"{owner}: '{parameter.name}'", options.room_of(parameter.annotation))
    return bind(name, method, {k: v for k, v in given.items() if k != "use"}, above, deferred=True)


def _artefact_argument(name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, Call]) -> Any:
    wanted = {
        leaf.__name__ for leaf in options.leaves_of(parameter.annotation) if getattr(leaf, "ROLE", 0) == "artefact"
    }
    shape = {o for o in _origins(parameter.annotation) if o in (list, dict)}
    if isinstance(value, list) and list in shape:
        return [_one(f"{name}.{i}", owner, parameter, v, wanted, above) for i, v in enumerate(value)]
    if isinstance(value, dict) and "use" not in value and dict in shape:
        return {k: _one(f"{name}.{k}", owner, parameter, v, wanted, above) for k, v in value.items()}
    if value is None and type(None) in options.leaves_of(parameter.annotation):
        return None
    if shape and not isinstance(value, str):
        raise MetierError(
            f"{owner}: '{parameter.name}' must be {'a list' if list in shape else 'a map'}, got {value!r}"
        )
    return _one(name, owner, parameter, value, wanted, above)


def _one(name: str, owner: str, parameter: Parameter, value: Any, wanted: set[str], above: Mapping[str, Call]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        reference = _reference(owner, parameter.name, value, above)
        found: Ref | Call = reference
        made = above[reference.name].method.returns
        # A part of a Task or of Records is Records; a Model opens as a Chat.
        offered = {"Records"} if reference.part else {made} | ({"Chat"} if made == "Model" else set())
    else:
        given = {"use": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("use"), str):
            raise MetierError(f"{owner}: '{parameter.name}' must be $step or {{use: …}}, got {value!r}")
        method = catalogue.find(given["use"], f"{owner}: '{parameter.name}'")
        found = bind(name, method, {k: v for k, v in given.items() if k != "use"}, above)
        offered = {method.returns} | ({"Chat"} if method.returns == "Model" else set())
    if not offered & wanted:
        raise MetierError(
            f"{owner}: '{parameter.name}' needs {' or '.join(sorted(wanted))}, got {min(offered)} from {value!r}"
        )
    return found


def _reference(owner: str, option: str, value: str, above: Mapping[str, Call]) -> Ref:
    name, _, part = value[1:].partition(".")
    if name not in above:
        raise options.unknown(f"{owner}: '{option}'", name, above, "step above called")
    return Ref(name, part or None)


def _references(owner: str, option: str, value: Any, above: Mapping[str, Call]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return _reference(owner, option, value, above)
    if isinstance(value, dict):
        return {k: _references(owner, option, v, above) for k, v in value.items()}
    if isinstance(value, list):
        return [_references(owner, option, v, above) for v in value]
    return value


def _has_reference(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_reference(v) for v in value.values())
    if isinstance(value, list):
        return any(_has_reference(v) for v in value)
    return isinstance(value, str) and value.startswith("$")


def _origins(annotation: Any) -> set[Any]:
    origin = typing.get_origin(annotation)
    inner = [_origins(a) for a in typing.get_args(annotation)] if origin is not typing.Literal else []
    return {origin or annotation}.union(*inner) if inner else {origin or annotation}


def _yaml(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """The syntax tree and the value of a YAML text."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _weight(root, {}) > LARGEST:
            raise MetierError(f"{name}: holds more than {LARGEST} values")
        return root, yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2020-13-01 is a ValueError
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (str(error).splitlines() or ["nothing"])[0]
        at = f", line {mark.line + 1}" if mark else ""
        raise MetierError(f"{name}{at}: not YAML: {problem}") from None


def _weight(node: yaml.Node, seen: dict[int, float]) -> float:
    """How many values a node stands for; one that holds itself is without end. An alias counts where it is used."""
    if id(node) not in seen:
        seen[id(node)] = float("inf")
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        nodes = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        seen[id(node)] = 1 + sum(_weight(part, seen) for part in nodes)
    return seen[id(node)]


def _change(raw: dict[str, Any], path: str, value: Any) -> None:
    """Sets one option; a slot on the way that is left at its default, or given as a word, becomes a map."""
    *parents, last = path.split(".")
    place: Any = raw
    room = None
    for depth, part in enumerate(parents):
        known = _taken(place, room) if depth else {}
        if not isinstance(place, dict) or part not in {*place, *known}:
            names = {*place, *known} if isinstance(place, dict) else ()
            raise options.unknown(f"--set {path}", part, names, "step or option")
        taken = known.get(part)
        slot = taken if taken is not None and taken.kind == "method" else None
        given = place.get(part, slot.default if slot else None)
        if part not in place and not isinstance(given, str):
            whole = ".".join(parents[: depth + 1])
            raise MetierError(f"--set {path}: '{part}' is not in the recipe; give all of it, --set {whole}=…")
        if isinstance(given, str) and not given.startswith("$") and (taken is None or taken.kind != "value"):
            given = {"use": given}
        room = options.room_of(slot.annotation) if slot else None
        place[part] = place = given
    if not isinstance(place, dict):
        raise MetierError(f"--set {path}: '{parents[-1]}' holds {place!r} and has no options")
    place[last] = value


def _taken(place: Any, room: str | None) -> dict[str, Parameter]:
    """What the method takes that this part of a recipe uses; nothing where there is none, which ``check`` will tell."""
    use = place.get("use") if isinstance(place, dict) else None
    if not isinstance(use, str):
        return {}
    try:
        return _wanted(catalogue.load(catalogue.find(use, room=room)), room is not None)
    except MetierError:
        return {}
