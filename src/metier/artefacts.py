"""What passes between steps: Records, Scores, Model, Part, Task, Report.

Each saves to a folder, loads from it and has a digest of its content.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pyarrow as pa

from metier.disk import json_text, read_table, table_digest, text_digest, write_json, write_table
from metier.options import MetierError
from metier.records import Records as Records
from metier.records import Row as Row
from metier.records import Scores as Scores


@dataclasses.dataclass(frozen=True)
class Model:
    """A language model as data: a plain transformers folder, or a peft folder and the model it sits on.

    ``lm.open(model)`` makes a Chat of it. ``source`` is what the user called it; ``notes`` are facts that
    travel (training history, licence). A Model made by a step lives in that step's folder.
    """

    path: Path
    digest: str
    base: Model | None = None
    head: Literal["text", "labels", "tags", "span", "score", "masked", "speech"] = "text"
    source: str = ""
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    ROLE: ClassVar[str] = "artefact"

    def part(self, name: str) -> Any:
        """A fact of its making; what ``$expert.steps`` means in a recipe. Raises MetierError for an unknown one."""
        if name not in self.notes:
            raise MetierError(f"model has no note '{name}'; it has: {', '.join(self.notes) or 'none'}")
        return self.notes[name]

    def save(self, folder: Path) -> None:
        """Writes ``model.json``; weights stay where they are, relative when they lie inside the folder."""
        facts = {"path": _relative(self.path, folder), "digest": self.digest, "head": self.head, "source": self.source,
                 "notes": self.notes, "base": None}  # fmt: skip
        if self.base is not None:
            (folder / "base").mkdir(exist_ok=True)
            self.base.save(folder / "base")
            facts["base"] = "base"
        write_json(folder / "model.json", facts)

    @classmethod
    def load(cls, folder: Path) -> Model:
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        base = cls.load(folder / facts["base"]) if facts["base"] else None
        return cls(folder / facts["path"], facts["digest"], base, facts["head"], facts["source"], facts["notes"])


@dataclasses.dataclass(frozen=True)
class Part:
    """Tensors and records that change or watch a model, and the method that understands them."""

    path: Path
    method: str
    digest: str
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    ROLE: ClassVar[str] = "artefact"

    def save(self, folder: Path) -> None:
        write_json(folder / "part.json",
                   {"path": _relative(self.path, folder), "method": self.method, "digest": self.digest,
                    "notes": self.notes})  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Part:
        facts = json.loads((folder / "part.json").read_text(encoding="utf-8"))
        return cls(folder / facts["path"], facts["method"], facts["digest"], facts["notes"])


@dataclasses.dataclass(frozen=True)
class Measure:
    """How one measure of a Task is asked and read.

    ``ask``: *read* = log-probability of ``text`` given ``prompt`` (value: bits, weight: bytes, total: their ratio);
    *choose* = the likeliest of ``choices`` (value: 1 when it is ``gold``); *write* = a reply, graded by the task's
    ``grade`` (one row per named number). ``margin`` is the loss that still counts as kept, fixed beforehand.
    ``pool`` names the measures that are also judged together.
    """

    ask: Literal["read", "choose", "write"]
    kind: Literal["domain", "retention"]
    unit: str
    better: Literal["higher", "lower"]
    title: str  # its name on the page …
    words: str  # … and what it means, in a plain sentence
    margin: float | None = None
    chance: float | None = None
    normalise: Literal["none", "bytes"] = "none"
    pool: str | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """Records to be answered, how each is asked, and how replies are graded (by ``grade`` of the module ``method``).

    Columns of ``records``: id, split, measure (a key of ``measures``), cluster (its rows are not independent), prompt,
    and by kind of asking: text · choices and gold (an index) · what ``grade`` needs. Rows without a measure are not
    asked but trained on (``$task.train``).
    """

    name: str
    method: str
    records: Records
    measures: dict[str, Measure]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    ROLE: ClassVar[str] = "artefact"

    def grade(self, records: list[Row], replies: list[Any]) -> list[dict[str, float]]:
        """Named numbers per record; keys are measure names. Raises MetierError when the method cannot grade."""
        module = importlib.import_module(f"metier.{self.method}")
        if not hasattr(module, "grade"):
            raise MetierError(f"{self.method}: grades no written replies")
        return cast(list[dict[str, float]], module.grade(records, replies))

    def part(self, split: str) -> Records:
        """The rows of one split, with the columns they fill. Raises MetierError for an unknown split."""
        rows = self.records.part(split).table
        return Records(rows.select([n for n in rows.column_names if rows.column(n).null_count < len(rows)]))

    @property
    def digest(self) -> str:
        return text_digest(self.name, self.method, self.records.digest, json_text(self._facts()))

    def save(self, folder: Path) -> None:
        self.records.save(folder)
        write_json(folder / "task.json", self._facts() | {"name": self.name, "method": self.method})

    @classmethod
    def load(cls, folder: Path) -> Task:
        facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        measures = {name: Measure(**m) for name, m in facts["measures"].items()}
        return cls(facts["name"], facts["method"], Records.load(folder), measures, facts["notes"])

    def _facts(self) -> dict[str, Any]:
        return {"measures": {n: dataclasses.asdict(m) for n, m in self.measures.items()}, "notes": self.notes}


@dataclasses.dataclass(frozen=True)
class Report:
    """Numbers (JSON) and a row per example, so that new metrics and paired tests need no second generation.

    ``rows`` of an evaluation: task, measure, chat, id, cluster, value, weight, prompt, gold, reply.
    ``$report.name`` in a recipe is ``numbers["name"]`` and may fill any value.
    """

    numbers: dict[str, Any]
    rows: pa.Table = dataclasses.field(default_factory=lambda: pa.table({}))

    ROLE: ClassVar[str] = "artefact"

    def part(self, name: str) -> Any:
        if name not in self.numbers:
            raise MetierError(f"report has no number '{name}'; it has: {', '.join(self.numbers) or 'none'}")
        return self.numbers[name]

    @property
    def digest(self) -> str:
        """Of what was found, not of what it cost: seconds differ from run to run."""
        found = {k: v for k, v in self.numbers.items() if k != "cost"}
        return text_digest(json_text(found), table_digest(self.rows))

    def save(self, folder: Path) -> None:
        write_json(folder / "report.json", self.numbers)
        write_table(self.rows, folder / "rows.arrow")

    @classmethod
    def load(cls, folder: Path) -> Report:
        numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return cls(numbers, read_table(folder / "rows.arrow"))


Artefact = Records | Scores | Model | Part | Task | Report
KINDS: dict[str, type[Artefact]] = {c.__name__: c for c in (Records, Scores, Model, Part, Task, Report)}


def _relative(path: Path, folder: Path) -> str:
    """What a step made lies in its folder, which is renamed when it is finished; everything else stays where it is."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
