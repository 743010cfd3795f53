"""A recipe is a list of steps: read, checked whole before anything runs, then run through the store.

``parse`` keeps line numbers, ``check`` binds every option by the method's signature, ``run`` computes a key
per step and only what the store does not hold yet. The order on the page is the order of execution.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import resource
import sys
import time
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from metier import catalogue, options
from metier.artefacts import Artefact, Model, json_text, text_digest
from metier.options import Bound, MetierError, Outside, Parameter
from metier.store import Progress, Store, Work, silent

VERSIONS = ("torch", "transformers", "peft")


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


@dataclasses.dataclass
class Done:
    """A step that ran or was found: its digest is known, its artefact is opened only when somebody needs it."""

    name: str
    use: str
    key: str
    digest: str
    options: Mapping[str, Any]
    seconds: float
    cached: bool
    peak_memory_bytes: int
    open: Callable[[], Any]
    log: Callable[[], list[dict[str, Any]]]


def parse(text: str, name: str = "recipe", changes: Mapping[str, Any] | None = None) -> list[Step]:
    """Steps of a YAML recipe. ``changes`` are ``{"expert.optimizer.lr": 1e-4}``, applied before anything is checked.

    Raises MetierError naming file and line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise MetierError(f"{name}, line {mark.line + 1 if mark else '?'}: not YAML: {error.problem}") from None
    if not isinstance(raw, dict) or not isinstance(root, yaml.MappingNode):
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
        if isinstance(given, str):
            given = {"use": given}
        if not isinstance(given, dict) or not isinstance(given.get("use"), str):
            raise MetierError(f"{name}, line {lines[step]}: step '{step}' must say which method it uses, '{step}: {{use: …}}'")
        steps.append(Step(step, given["use"], {k: v for k, v in given.items() if k != "use"}, lines[step]))
    return steps


def check(steps: list[Step], name: str = "recipe") -> list[Call]:
    """Binds every step to its method: names, options, ranges, kinds, references. Raises MetierError with the line."""
    above: dict[str, catalogue.Method] = {}
    calls = []
    for step in steps:
        try:
            calls.append(_bind(step.name, catalogue.find(step.use, step.name), step.given, above))
        except MetierError as error:
            raise MetierError(f"{name}, line {step.line}: {error}") from None
        above[step.name] = calls[-1].method
    return calls


def run(
    calls: list[Call],
    store: Store,
    progress: Progress = silent,
    started: Callable[[str, str], None] = lambda name, use: None,
    finished: Callable[[Done], None] = lambda done: None,
) -> dict[str, Done]:
    """Runs the steps in order; what the store holds is not computed again. Killed, the same call goes on."""
    done: dict[str, Done] = {}
    begun = time.monotonic()
    for call in calls:
        started(call.name, call.method.name)
        runner = _Runner(store, progress, done, begun)
        done[call.name] = runner.step(call)
        finished(done[call.name])
    return done


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


# -- binding ----------------------------------------------------------------------------------------------------------


def _bind(
    name: str, method: catalogue.Method, given: Mapping[str, Any], above: Mapping[str, catalogue.Method],
    deferred: bool = False,
) -> Call:  # fmt: skip
    function = catalogue.load(method)
    owner = method.name
    wanted = {p.name: p for p in _flat(function) if p.kind != "work"}
    if deferred:  # the positional inputs of a method in a slot come from whoever calls it
        wanted = {n: p for n, p in wanted.items() if p.option}
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
    return Call(name, method, function, arguments, deferred)


def _flat(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters with spread dataclasses replaced by their fields."""
    flat: list[Parameter] = []
    for parameter in options.parameters(function):
        if parameter.kind == "spread":
            flat.extend(options.fields(_spread_class(parameter)))
        else:
            flat.append(parameter)
    return flat


def _spread_class(parameter: Parameter) -> type:
    return next(leaf for leaf in options.leaves_of(parameter.annotation) if getattr(leaf, "ROLE", None) == "spread")


def _argument(
    name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, catalogue.Method]
) -> Any:
    if parameter.kind == "method":
        return _method_argument(name, owner, parameter, value, above)
    if parameter.kind == "artefact":
        return _artefact_argument(name, owner, parameter, value, above)
    if _has_reference(value):
        return _references(owner, parameter.name, value, above)
    return options.checked(owner, parameter, value)


def _method_argument(
    name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, catalogue.Method]
) -> Any:
    if isinstance(value, list):
        return [_method_argument(name, owner, parameter, v, above) for v in value]
    if value is None:
        return None
    given = {"use": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("use"), str):
        raise MetierError(f"{owner}: '{parameter.name}' must be a method, '{{use: …}}', got {value!r}")
    method = catalogue.find(given["use"], f"{owner}: '{parameter.name}'", options.room_of(parameter.annotation))
    return _bind(name, method, {k: v for k, v in given.items() if k != "use"}, above, deferred=True)


def _artefact_argument(
    name: str, owner: str, parameter: Parameter, value: Any, above: Mapping[str, catalogue.Method]
) -> Any:
    wanted = {leaf.__name__ for leaf in options.leaves_of(parameter.annotation) if getattr(leaf, "ROLE", 0) == "artefact"}
    shape = {o for o in _origins(parameter.annotation) if o in (list, dict)}
    if isinstance(value, list) and list in shape:
        return [_one(f"{name}.{i}", owner, parameter, v, wanted, above) for i, v in enumerate(value)]
    if isinstance(value, dict) and "use" not in value and dict in shape:
        return {k: _one(f"{name}.{k}", owner, parameter, v, wanted, above) for k, v in value.items()}
    if value is None and type(None) in options.leaves_of(parameter.annotation):
        return None
    if shape and not isinstance(value, str):
        raise MetierError(f"{owner}: '{parameter.name}' must be {'a list' if list in shape else 'a map'}, got {value!r}")
    return _one(name, owner, parameter, value, wanted, above)


def _one(
    name: str, owner: str, parameter: Parameter, value: Any, wanted: set[str], above: Mapping[str, catalogue.Method]
) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        found = _reference(owner, parameter.name, value, above)
        made = above[found.name].returns
        # A part of a Task or of Records is Records; a Model opens as a Chat.
        offered = {"Records"} if found.part else {made} | ({"Chat"} if made == "Model" else set())
    else:
        given = {"use": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("use"), str):
            raise MetierError(f"{owner}: '{parameter.name}' must be $step or {{use: …}}, got {value!r}")
        method = catalogue.find(given["use"], f"{owner}: '{parameter.name}'")
        found = _bind(name, method, {k: v for k, v in given.items() if k != "use"}, above)
        offered = {method.returns} | ({"Chat"} if method.returns == "Model" else set())
    if not offered & wanted:
        raise MetierError(
            f"{owner}: '{parameter.name}' needs {' or '.join(sorted(wanted))}, got {sorted(offered)[0]} from {value!r}"
        )
    return found


def _reference(owner: str, option: str, value: str, above: Mapping[str, catalogue.Method]) -> Ref:
    name, _, part = value[1:].partition(".")
    if name not in above:
        raise options.unknown(f"{owner}: '{option}'", name, above, "step above called")
    return Ref(name, part or None)


def _references(owner: str, option: str, value: Any, above: Mapping[str, catalogue.Method]) -> Any:
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


def _change(raw: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place: Any = raw
    for depth, part in enumerate(parents):
        if not isinstance(place, dict) or part not in place:
            raise options.unknown(f"--set {path}", part, place if isinstance(place, dict) else (), "step or option")
        if isinstance(place[part], str) and depth > 0:  # `parameters: lora` takes options once it is a map
            place[part] = {"use": place[part]}
        place = place[part]
    if not isinstance(place, dict):
        raise MetierError(f"--set {path}: '{parents[-1]}' holds {place!r} and has no options")
    place[last] = value


# -- running ----------------------------------------------------------------------------------------------------------


class _Runner:
    """Resolves the arguments of one step and computes it, unless the store has it."""

    def __init__(self, store: Store, progress: Progress, done: Mapping[str, Done], begun: float) -> None:
        self.store, self.progress, self.done, self.begun = store, progress, done, begun

    def step(self, call: Call) -> Done:
        outside = {p.name for p in _flat(call.function) if Outside in map(type, options.leaves_of(p.annotation))}
        fingerprint = getattr(sys.modules[call.function.__module__], "fingerprints", {}).get(call.method.verb)
        values = {k: self._keyed(k, v) for k, v in call.arguments.items() if k not in outside}
        if fingerprint is not None:
            values["outside"] = fingerprint(**{k: v for k, v in call.arguments.items() if k in outside})
        versions = {v: importlib.metadata.version(v) for v in VERSIONS}
        code = catalogue.code_digest(_files(call))
        key = text_digest(call.method.name, code, json_text(values), json_text(versions))[:40]
        if call.method.returns == "Chat":
            return self._finish(call, key, key, 0.0, False, 0, lambda: self._compute(call, None))
        if outside and fingerprint is None:
            folder = self.store.root / "always" / key
            begun = time.monotonic()
            artefact = self._compute(call, Work(folder, self.progress, list(self.done.values()), self.begun))
            return self._finish(call, key, artefact.digest, time.monotonic() - begun, False, _peak(), lambda: artefact)
        manifest = self.store.manifest(key)
        cached = manifest is not None
        if manifest is None:
            manifest = self._make(call, key)
        return self._finish(call, key, manifest["digest"], manifest["seconds"], cached,
                            manifest["peak_memory_bytes"], lambda: self.store.load(key))  # fmt: skip

    def _make(self, call: Call, key: str) -> dict[str, Any]:
        with self.store.computing(key) as folder:
            manifest = self.store.manifest(key)  # another process may have finished it while we waited
            if manifest is None:
                work = Work(folder, self.progress, list(self.done.values()), self.begun)
                begun = time.monotonic()
                artefact = self._compute(call, work)
                facts = {
                    "use": call.method.name,
                    "options": describe(call.arguments),
                    "seconds": round(time.monotonic() - begun, 3),
                    "peak_memory_bytes": _peak(),
                }
                self.store.commit(key, artefact, facts)
                manifest = self.store.manifest(key)
            assert manifest is not None
            return manifest

    def _finish(
        self, call: Call, key: str, digest: str, seconds: float, cached: bool, peak: int, open: Callable[[], Any]
    ) -> Done:
        opened: list[Any] = []

        def once() -> Any:
            if not opened:
                opened.append(open())
            return opened[0]

        return Done(call.name, call.method.name, key, digest, describe(call.arguments), seconds, cached, peak,
                    once, lambda: self.store.log(key))  # fmt: skip

    def _compute(self, call: Call, work: Work | None) -> Any:
        filled: dict[str, Any] = {}
        for parameter in options.parameters(call.function):
            if parameter.kind == "spread":
                filled[parameter.name] = self._spread(call, parameter, work)
            elif parameter.kind == "work":
                filled[parameter.name] = work
            elif parameter.name in call.arguments:
                chat = "Chat" in {getattr(leaf, "__name__", "") for leaf in options.leaves_of(parameter.annotation)}
                filled[parameter.name] = self._value(call, parameter, call.arguments[parameter.name], chat)
        return call.function(**filled)

    def _spread(self, call: Call, parameter: Parameter, work: Work | None) -> Any:
        cls = _spread_class(parameter)
        given: dict[str, Any] = {}
        for field in options.fields(cls):
            if field.kind == "work":
                given[field.name] = work
            elif field.name in call.arguments:
                given[field.name] = self._value(call, field, call.arguments[field.name], False)
        return cls(**given)

    def _value(self, call: Call, parameter: Parameter, value: Any, chat: bool) -> Any:
        if isinstance(value, list):
            value = [self._value(call, parameter, v, chat) for v in value]
        elif isinstance(value, dict):
            value = {k: self._value(call, parameter, v, chat) for k, v in value.items()}
        elif isinstance(value, Ref):
            artefact = self.done[value.name].open()
            found = artefact.part(value.part) if value.part else artefact
            return _opened(found) if chat else found if parameter.kind == "artefact" else options.checked(
                call.method.name, parameter, found
            )  # fmt: skip
        elif isinstance(value, Call) and value.deferred:
            by_name = {p.name: p for p in options.parameters(value.function)}
            return Bound(value.method.name, value.function,
                         {k: self._value(value, by_name[k], v, False) for k, v in value.arguments.items()})  # fmt: skip
        elif isinstance(value, Call):
            artefact = self.step(value).open()
            return _opened(artefact) if chat else artefact
        return value

    def _keyed(self, name: str, value: Any) -> Any:
        """What stands for an argument in the key: a value itself, an artefact's digest, a method's code and options."""
        if isinstance(value, Ref):
            if value.part is None:
                return {"digest": self.done[value.name].digest}
            found = self.done[value.name].open().part(value.part)
            return {"digest": found.digest} if hasattr(found, "digest") else found
        if isinstance(value, Call):
            if value.deferred:
                code = catalogue.code_digest([value.method.path])
                return {"use": value.method.name, "code": code} | {
                    k: self._keyed(k, v) for k, v in value.arguments.items()
                }
            return {"digest": self.step(value).digest}
        if isinstance(value, dict):
            return {k: self._keyed(name, v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._keyed(name, v) for v in value]
        return value


def _files(call: Call) -> list[Path]:
    return [call.method.path]


def _opened(artefact: Artefact | Any) -> Any:
    if not isinstance(artefact, Model):
        return artefact
    from metier.lm import load  # torch is needed only when a model is opened

    return load.open(artefact)


def _peak() -> int:
    """Peak resident memory of this process so far, in bytes (ru_maxrss is kilobytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
