"""Runs checked steps through the store: a key per step, and only what is not there yet is computed.

A step's key is the digest of its method's code (with every metier file it imports), its completed values, the
digests of its inputs and the versions of the libraries this code imports. Artefacts are opened only when somebody
needs them.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from metier import catalogue, memory, options
from metier.artefacts import Model, Records
from metier.calls import Call, Ref, describe, flat, spread_class
from metier.disk import json_text, text_digest
from metier.options import Bound, MetierError, Parameter
from metier.store import Progress, Store, Work, silent


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


def run(
    calls: list[Call],
    store: Store,
    progress: Progress = silent,
    started: Callable[[str, str], None] = lambda name, use: None,
    finished: Callable[[Done], None] = lambda done: None,
) -> dict[str, Done]:
    """Runs the steps in order; what the store holds is not computed again. Killed, the same call goes on.

    Started by a launcher such as torchrun, all processes call it with the same steps and train together.
    Raises what the steps raise.
    """
    runner = _runner()
    done: dict[str, Done] = {}
    begun = time.monotonic()
    for call in calls:
        started(call.name, call.method.name)
        done[call.name] = runner(store, progress, done, begun).step(call)
        finished(done[call.name])
    return done


def _runner() -> Callable[..., Runner]:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Runner
    from metier import together  # torch

    return together.runner


class Runner:
    """Resolves the arguments of a step and computes it, unless the store has it; ``done`` are the steps before it."""

    def __init__(self, store: Store, progress: Progress, done: Mapping[str, Done], begun: float) -> None:
        self.store, self.progress, self.done, self.begun = store, progress, done, begun

    def step(self, call: Call) -> Done:
        key = self.key(call)
        if call.method.returns == "Chat":
            return self._finish(call, key, key, 0.0, False, 0, lambda: self.compute(call, None))
        if self.always(call):
            folder = self.store.root / "always" / key
            memory.forget_peak()
            begun = time.monotonic()
            artefact = self.compute(call, Work(folder, self.progress, list(self.done.values()), self.begun))
            return self._finish(
                call, key, artefact.digest, time.monotonic() - begun, False, memory.peak(), lambda: artefact
            )
        manifest = self.store.manifest(key)
        cached = manifest is not None
        if cached:
            self.agree(call, False)
        if manifest is None:
            manifest = self._make(call, key)
        return self._finish(call, key, manifest["digest"], manifest["seconds"], cached,
                            manifest["peak_memory_bytes"], lambda: self.store.load(key))  # fmt: skip

    def agree(self, call: Call, computes: bool) -> None:
        """Where several processes train together: whether this step is computed now."""

    def key(self, call: Call) -> str:
        """Of the step: method, code and its libraries, values, inputs by content, what lies outside."""
        outside = {p.name for p in flat(call.function) if options.outside(p)}
        values = {k: self._keyed(k, v) for k, v in call.arguments.items() if k not in outside}
        fingerprint = _fingerprint(call)
        if fingerprint is not None:
            values["outside"] = fingerprint(**{k: v for k, v in call.arguments.items() if k in outside})
        if any(_takes_chat(p) for p in flat(call.function)):  # how a Model becomes a Chat is part of what is asked
            values["opened"] = catalogue.code_digest([catalogue.PACKAGE / "lm" / "load.py"])
        return text_digest(call.method.name, catalogue.code_digest([call.method.path]), json_text(values))[:40]

    def always(self, call: Call) -> bool:
        """Whether the step runs every time: it touches what lies outside, and nothing tells when that has changed."""
        return any(options.outside(p) for p in flat(call.function)) and _fingerprint(call) is None

    def _make(self, call: Call, key: str) -> dict[str, Any]:
        with self.store.computing(key, self.progress) as folder:
            manifest = self.store.manifest(key)  # another process may have finished it while we waited
            self.agree(call, manifest is None)
            if manifest is None:
                work = Work(folder, self.progress, list(self.done.values()), self.begun)
                memory.forget_peak()
                begun = time.monotonic()
                artefact = self.compute(call, work)
                facts = {
                    "use": call.method.name,
                    "options": describe(call.arguments),
                    "seconds": round(time.monotonic() - begun, 3),
                    "peak_memory_bytes": memory.peak(),
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

    def compute(self, call: Call, work: Work | None) -> Any:
        """Runs the method on its resolved arguments, whatever the store holds."""
        return call.function(**self.filled(call, work))

    def filled(self, call: Call, work: Work | None) -> dict[str, Any]:
        """The arguments of a step with everything they refer to opened."""
        filled: dict[str, Any] = {}
        for parameter in options.parameters(call.function):
            if parameter.kind == "spread":
                filled[parameter.name] = self._spread(call, parameter, work)
            elif parameter.kind == "work":
                filled[parameter.name] = work
            elif parameter.name in call.arguments:
                given = call.arguments[parameter.name]
                filled[parameter.name] = self._value(call, parameter, given, _takes_chat(parameter))
        return filled

    def _spread(self, call: Call, parameter: Parameter, work: Work | None) -> Any:
        cls = spread_class(parameter)
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
            refuse_empty(call.method.name, parameter.name, found)
            return _opened(found) if chat else found if parameter.kind == "artefact" else options.checked(
                call.method.name, parameter, found
            )  # fmt: skip
        elif isinstance(value, Call) and value.deferred:
            by_name = {p.name: p for p in options.parameters(value.function)}
            return Bound(value.method.name, value.function,
                         {k: self._value(value, by_name[k], v, False) for k, v in value.arguments.items()})  # fmt: skip
        elif isinstance(value, Call):
            artefact = self.step(value).open()
            refuse_empty(call.method.name, parameter.name, artefact)
            return _opened(artefact) if chat else artefact
        return value

    def _keyed(self, name: str, value: Any) -> Any:
        """What stands for an argument in the key: a value itself, an artefact's digest, a method's code and options."""
        if isinstance(value, Ref):
            if value.part is None:
                return _standing(self.done[value.name])
            found = self.done[value.name].open().part(value.part)
            return {"digest": found.digest} if hasattr(found, "digest") else found
        if isinstance(value, Call):
            if value.deferred:
                code = catalogue.code_digest([value.method.path])
                return {"use": value.method.name, "code": code} | {
                    k: self._keyed(k, v) for k, v in value.arguments.items()
                }
            return _standing(self.step(value))
        if isinstance(value, dict):
            return {k: self._keyed(name, v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._keyed(name, v) for v in value]
        return value


def _standing(done: Done) -> dict[str, str]:
    """What stands for an artefact in a key: its content, and for a task the code that grades its answers."""
    method = catalogue.find(done.use)
    code = {"code": catalogue.code_digest([method.path])} if method.returns == "Task" else {}
    return {"digest": done.digest} | code


def _takes_chat(parameter: Parameter) -> bool:
    return "Chat" in {getattr(leaf, "__name__", "") for leaf in options.leaves_of(parameter.annotation)}


def refuse_empty(owner: str, name: str, value: Any) -> None:
    """No method has anything to say about no records. Raises MetierError."""
    if isinstance(value, Records) and not len(value):
        raise MetierError(f"{owner}: '{name}' holds no records")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_empty(owner, name, inner)


def _opened(artefact: Any) -> Any:
    if not isinstance(artefact, Model):
        return artefact
    from metier.lm import load  # torch is needed only when a model is opened

    return load.open(artefact)


def _fingerprint(call: Call) -> Callable[..., str] | None:
    found: Callable[..., str] | None = getattr(sys.modules[call.function.__module__], "fingerprints", {}).get(
        call.method.verb
    )
    return found
