"""What passes between steps: Records, Scores, Model, Part, Task, Report.

Each saves to a folder, loads from it and has a digest of its content.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pyarrow as pa

from metier.disk import ROWS_A_BATCH, json_text, read_table, table_digest, text_digest, write_json, write_table
from metier.options import MetierError

Row = dict[str, Any]


class Records:
    """Ordered rows: ``id``, one of text / messages / prompt …, ``origin``, ``split`` and free named columns."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Records:
        """From dicts; a column missing in some rows is null there. Raises MetierError when an id is missing or twice."""
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
        seen: set[str] = set()
        for row in rows:
            if row.get("id") is None:
                raise MetierError("records: every record needs an 'id'")
            if row["id"] in seen:
                raise MetierError(f"records: the id {row['id']!r} stands twice")
            seen.add(row["id"])
        return cls(table)

    def __len__(self) -> int:
        return cast(int, self.table.num_rows)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=ROWS_A_BATCH):
            yield from batch.to_pylist()

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    def column(self, name: str) -> list[Any]:
        """Raises MetierError, naming the columns there are, when there is none of that name."""
        if name not in self.columns:
            raise MetierError(f"records have no column '{name}'; they have: {', '.join(self.columns) or 'none'}")
        return cast(list[Any], self.table.column(name).to_pylist())

    def take(self, indices: Sequence[int]) -> Records:
        return Records(self.table.take(pa.array(indices, pa.int64())))

    def where(self, mask: Sequence[bool]) -> Records:
        return Records(self.table.filter(pa.array(mask, pa.bool_())))

    def with_column(self, name: str, values: Sequence[Any]) -> Records:
        """The records with one column added or replaced."""
        array = pa.array(values)
        if name in self.columns:
            return Records(self.table.set_column(self.columns.index(name), name, array))
        return Records(self.table.append_column(name, array))

    def part(self, split: str) -> Records:
        """The rows of one split; what ``$name.train`` means in a recipe. Raises MetierError for an unknown split."""
        splits = self.column("split")
        if split not in splits:
            known = ", ".join(sorted({str(s) for s in splits if s})) or "none"
            raise MetierError(f"records have no split '{split}'; they have: {known}")
        return self.where([s == split for s in splits])

    @property
    def digest(self) -> str:
        return table_digest(self.table)

    def save(self, folder: Path) -> None:
        write_table(self.table, folder / "records.arrow")

    @classmethod
    def load(cls, folder: Path) -> Records:
        return cls(read_table(folder / "records.arrow"))


class Scores:
    """A number, or a reason why not, per record id (columns ``id``, ``score``, ``reason``) and named columns."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Scores:
        """Rows {id, score | None, reason | None, …}: exactly one of score and reason is set (checked)."""
        rows = list(rows)
        for row in rows:
            if (row.get("score") is None) == (row.get("reason") is None):
                raise MetierError(f"scores: record {row.get('id')!r} needs a score or a reason, and not both")
        extra = [n for n in dict.fromkeys(name for row in rows for name in row) if n not in ("id", "score", "reason")]
        columns: dict[str, Any] = {
            "id": pa.array([row["id"] for row in rows], pa.string()),
            "score": pa.array([row.get("score") for row in rows], pa.float64()),
            "reason": pa.array([row.get("reason") for row in rows], pa.string()),
        }
        return cls(pa.table(columns | {name: [row.get(name) for row in rows] for name in extra}))

    def __iter__(self) -> Iterator[Row]:
        yield from self.table.to_pylist()

    @property
    def digest(self) -> str:
        return table_digest(self.table)

    def save(self, folder: Path) -> None:
        write_table(self.table, folder / "scores.arrow")

    @classmethod
    def load(cls, folder: Path) -> Scores:
        return cls(read_table(folder / "scores.arrow"))


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
                   {"path": _relative(self.path, folder), "method": self.method, "digest": self.digest, "notes": self.notes})  # fmt: skip

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
    title: str  # what the report calls it
    words: str  # one plain sentence for the report
    margin: float | None = None
    chance: float | None = None
    normalise: Literal["none", "bytes"] = "none"
    pool: str | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """Records to be answered, how each is asked, and how replies are graded.

    Columns of ``records``: id, split, measure (a key of ``measures``), cluster (rows of one are not independent), prompt
    (text), and by kind of asking: text · choices and gold (an index) · what ``grade`` needs. ``method`` is the module
    that made it; its ``grade(records, replies) -> rows`` grades *write* rows. Rows without a measure are not asked:
    they are the records the task was made from, to train on (``$task.train``).
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
        """The rows of one split, without the columns that none of them fills. Raises MetierError for an unknown split."""
        table = self.records.part(split).table
        filled = [name for name in table.column_names if table.column(name).null_count < table.num_rows]
        return Records(table.select(filled))

    def asked(self) -> dict[str, list[Row]]:
        """The rows to be answered, by the measure they are asked under."""
        rows: dict[str, list[Row]] = {}
        for row in self.records.where([m is not None for m in self.records.column("measure")]):
            rows.setdefault(row["measure"], []).append(row)
        return rows

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
