"""A method with toy inputs of every kind: what the laws are tried on."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from metier import catalogue, options
from metier.artefacts import Model, Part, Records, Report, Scores, Task
from metier.calls import spread_class
from metier.catalogue import Method
from metier.disk import files_digest, text_digest
from metier.evaluate import compare, generation
from metier.infer.context import passages
from metier.laws import filled, given, toy
from metier.lm import load
from metier.lm.chat import Chat, Sampling
from metier.options import Bound, Parameter
from metier.store import Progress, Work, silent
from metier.tasks import general
from metier.worlds import facts
from metier.worlds.facts import World
from metier.worlds.writer import Scripted

ASKED: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "the river rises"}],
    [{"role": "user", "content": "north or south"}, {"role": "assistant", "content": "north"},
     {"role": "user", "content": "valve"}],
    [{"role": "user", "content": "after"}],
]  # fmt: skip
PROMPTS, CONTINUATIONS = ["the river", "north bridge", "close"], [" rises before", " valve", " the meter of a"]
SHORT = Sampling(max_tokens=6)
TRAINING = {"steps": 4, "batch": 4, "micro_tokens": 96, "length": 64, "checkpoint_every": 1e-6}


class Bench:
    """Toy artefacts of every kind below one folder, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Any] = {}

    def made(self, name: str) -> Any:
        """What the method of this name gives on the bench, made once."""
        if name not in self._made:
            self._made[name] = Case(catalogue.methods()[name], self).run(self.folder / "made" / name)
        return self._made[name]

    @functools.cached_property
    def model(self) -> Model:
        return toy.write(self.folder / "model")

    @functools.cached_property
    def other(self) -> Model:
        """Another model of the same kind, with the same words."""
        return toy.write(self.folder / "other", seed=1)

    @functools.cached_property
    def records(self) -> Records:
        return Records.from_rows(given.rows())

    @functools.cached_property
    def preferences(self) -> Records:
        return Records.from_rows(given.preferences())

    @functools.cached_property
    def scores(self) -> Scores:
        ids = self.records.column("id")
        return Scores.from_rows({"id": name, "score": float(i % 7), "reason": None} for i, name in enumerate(ids))

    @functools.cached_property
    def shares(self) -> Scores:
        """Of the two sources a method that takes several gets."""
        return Scores.from_rows({"id": name, "score": 0.5, "reason": None} for name in ("base", "expert"))

    @functools.cached_property
    def world(self) -> World:
        return facts.make(entities=6)

    @functools.cached_property
    def told(self) -> Records:
        """Documents of an invented world …"""
        return Records.from_rows(self.world.documents(1))

    @functools.cached_property
    def asked(self) -> Records:
        """… and questions about it, which its ``writer`` can answer."""
        return Records.from_rows(self.world.questions())

    @functools.cached_property
    def writer(self) -> Chat:
        return Scripted(self.world)

    @functools.cached_property
    def task(self) -> Task:
        return given.task()

    @functools.cached_property
    def written(self) -> Task:
        """Prompts that ask for a form; replies are graded."""
        whole = general.make(choice=1, prose=1, arithmetic=0, grammar=0, forms=8)
        forms = whole.records.where([m == "form" for m in whole.records.column("measure")])
        return dataclasses.replace(whole, records=forms)

    @functools.cached_property
    def problems(self) -> Task:
        """Prompts to be answered and graded in training; some replies of the toy come to an end by themselves."""
        records = self.written.records
        return dataclasses.replace(self.written, records=records.with_column("split", ["train"] * len(records)))

    @property
    def chats(self) -> dict[str, Chat]:
        return {"base": load.open(self.model), "expert": load.open(self.other)}

    @functools.cached_property
    def report(self) -> Report:
        return compare.measure(self.chats, [self.task], max_tokens=4, work=Work(self.folder / "report"))

    @functools.cached_property
    def graded(self) -> Report:
        return generation.measure(self.chats, [self.written], max_tokens=4, work=Work(self.folder / "graded"))

    @property
    def reader(self) -> Chat:
        """A wrap around the model."""
        return passages.wrap(load.open(self.model), self.records)

    @functools.cached_property
    def places(self) -> dict[str, str]:
        """What stands for ``{name}`` in an EXAMPLE, and fills an option of that name."""
        documents, lines = self.folder / "documents", self.folder / "records.jsonl"
        documents.mkdir(exist_ok=True)
        for row in self.records:
            (documents / f"{row['id']}.txt").write_text(row["title"] + "\n\n" + row["text"], encoding="utf-8")
        lines.write_text(
            "".join(json.dumps({"messages": r["messages"]}) + "\n" for r in self.records), encoding="utf-8"
        )
        return {"documents": str(documents), "records": str(lines), "model": str(self.model.path),
                "source": str(documents), "path": str(self.model.path)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One method, its function and file, and the bench it is tried on."""

    method: Method
    bench: Bench

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        return catalogue.load(self.method)

    @property
    def file(self) -> ModuleType:
        """Raises MetierError when an extra is missing."""
        return sys.modules[self.function.__module__]

    @property
    def example(self) -> dict[str, Any]:
        """What the file gives for options (and inputs) without a default."""
        found = filled.example(getattr(self.file, "EXAMPLE", {}), self.bench)
        assert isinstance(found, dict)
        return found

    def bound(self, **changed: Any) -> Bound:
        """The method for a slot, with its EXAMPLE."""
        known = {p.name: p for p in options.parameters(self.function) if p.option}
        values = {k: filled.methods(known[k], v) for k, v in (self.example | changed).items() if k in known}
        work = Work(self.bench.folder / "made" / self.method.name)
        for name, parameter in known.items():
            if name not in values and parameter.required and parameter.kind == "artefact":
                values[name] = self._found(parameter, work)
        return Bound(self.method.name, self.function, values)

    def inputs(self, work: Work, **changed: Any) -> dict[str, Any]:
        """Every argument of the method: from ``changed``, its EXAMPLE, or the bench."""
        own = self.example | changed
        found: dict[str, Any] = {}
        for parameter in options.parameters(self.function):
            word = isinstance(own.get(parameter.name), str)  # the same name may be a word in another verb of the file
            if parameter.name in own and not (word and parameter.kind == "artefact"):
                found[parameter.name] = own[parameter.name]
            elif parameter.kind == "work":
                found[parameter.name] = work
            elif parameter.kind == "spread":
                setup = spread_class(parameter)
                fields = {f.name for f in options.fields(setup)}
                known = TRAINING | {k: v for k, v in own.items() if k in fields}
                if {"epochs", "tokens"} & set(own):
                    del known["steps"]
                if "step_tokens" in own:
                    del known["batch"]
                found[parameter.name] = setup(**known, work=work)
            elif parameter.required:
                found[parameter.name] = self._found(parameter, work)
            elif parameter.kind == "method":
                found[parameter.name] = filled.methods(parameter, parameter.default)
        return found

    def run(self, folder: Path, progress: Progress = silent, **changed: Any) -> Any:
        """The method's result on the bench."""
        return self.function(**self.inputs(Work(folder, progress), **changed))

    def _found(self, parameter: Parameter, work: Work) -> Any:
        if parameter.name == "to":
            return str(work.folder / "out.jsonl")
        if parameter.kind == "value" and parameter.name in self.bench.places:
            place = self.bench.places[parameter.name]
            return [place] if typing.get_origin(parameter.annotation.__origin__) is list else place
        assert parameter.kind == "artefact", f"EXAMPLE must give '{parameter.name}'"
        leaves = [getattr(leaf, "__name__", "") for leaf in options.leaves_of(parameter.annotation)]
        one, two = self._pair(parameter.name, next(name for name in leaves if name in KINDS), work)
        if typing.get_origin(parameter.annotation) is dict:
            return {"base": one, "expert": two}
        return [one] if typing.get_origin(parameter.annotation) is list else one

    def _pair(self, name: str, kind: str, work: Work) -> tuple[Any, Any]:
        bench = self.bench
        if kind == "Part":
            makes = "make" if hasattr(self.file, "make") else "fit"
            full = f"{self.method.room}.{self.method.path.stem}.{makes}"
            case = dataclasses.replace(self, method=catalogue.methods()[full])
            part = case.run(work.folder / "part")
            return part, part
        if kind == "Chat" and name == "writer":
            return bench.writer, bench.writer
        if kind == "Chat":
            return bench.chats["base"], bench.chats["expert"]
        if kind == "Model":
            return bench.model, bench.other
        found = {"Records": bench.records, "Scores": bench.scores, "Task": bench.task, "Report": bench.report}[kind]
        return found, found


KINDS = ("Records", "Scores", "Model", "Chat", "Part", "Task", "Report")


def digest(made: Any) -> str:
    """Of what a method gave: an artefact's content, a chat's answers."""
    if hasattr(made, "reply"):
        return text_digest(*answers(made))
    if isinstance(made, Model):
        return text_digest(made.digest, files_digest(made.path))
    found: str = made.digest
    return found


def answers(chat: Chat) -> list[str]:
    """Greedy replies and, where it gives them, log-probabilities, written out."""
    said = [r.text for r in chat.reply(ASKED, SHORT)]
    if chat.access in ("logits", "weights"):
        said += [f"{found.sum:.4f}" for found in chat.logprobs(PROMPTS, CONTINUATIONS)]
    return said


def artefacts(value: Any) -> list[Any]:
    """The artefacts in an argument, for digests before and after."""
    if isinstance(value, dict):
        return [a for v in value.values() for a in artefacts(v)]
    if isinstance(value, list):
        return [a for v in value for a in artefacts(v)]
    return [value] if isinstance(value, Records | Scores | Model | Part | Task | Report) else []
