"""Generated bad input for every way in: each ends in a result or in one sentence, never in a traceback.

    python tests/fuzz.py [--inputs 20000] [--only SURFACE] [--seed N]      (`make fuzz` runs all)

Prints inputs, refusals, failures and seconds of each surface, and every failure with the seed that brings it back:
``--only recipes --seed 1234`` runs that one input. Nothing is written outside a temporary folder,
and nothing is trained.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from fpdf import FPDF

import junk
import talks
from metier import catalogue, cli, options, recipe, road, shapes
from metier.artefacts import Records, Report, Scores
from metier.calls import flat
from metier.data.ingest import documents, records
from metier.lm import tokens
from metier.options import MetierError
from metier.store import Store, Work, read_log, replacing
from metier.study import read as study
from metier.train import checkpoint

READY = (road.RECIPES / "adapt.yaml").read_text(encoding="utf-8")
LONGEST = 1000  # characters of a sentence that somebody will read


class Broken(Exception):
    """An answer that is no traceback, but not what was promised either."""


def values(draw: random.Random, folder: Path) -> None:
    """An option of some method, with a value that may fit."""
    method = draw.choice(list(catalogue.methods().values()))
    wanted = [p for p in flat(catalogue.load(method)) if p.kind == "value" and p.option]
    if wanted:
        parameter = draw.choice(wanted)
        given = junk.near(draw, parameter) if draw.random() < 0.6 else junk.value(draw)
        taken = options.checked(method.name, parameter, given)
        if json.dumps(options.checked(method.name, parameter, taken), default=str) != json.dumps(taken, default=str):
            raise Broken(f"{method.name}: '{parameter.name}' took {given!r} as {taken!r}, but not that again")


def recipes(draw: random.Random, folder: Path) -> None:
    """A recipe, parsed and checked whole."""
    text = junk.recipe(draw, READY)
    try:
        recipe.check(recipe.parse(text, "r.yaml"), "r.yaml")
    except MetierError as error:
        if not str(error).startswith("r.yaml"):
            raise Broken(f"does not name the file: {error}") from None
        raise


def changes(draw: random.Random, folder: Path) -> None:
    """``--set`` on a ready recipe."""
    paths = [
        "expert.lr", "expert.optimizer.lr", "plan.budget", "base.path", "out", "a", "", ".", "expert.parameters.rank.x",
        "chunks.chunk", "verdict.reports.0", "chunks.source", "plan.parameters.use", "expert.", ".lr", "divided.test",
        "expert.optimizer.use", "domain.data", "plan.parameters", "expert.max_grad_norm", "expert.seed",
    ]  # fmt: skip
    sets = [
        draw.choice([*paths, junk.text(draw), f"{draw.choice(junk.STEPS)}.{junk.text(draw)}"])
        + draw.choice(["=", "=", "=", "=", "=", "", "==", " = "])
        + draw.choice([*VALUES, junk.text(draw), junk.yaml_text(junk.value(draw))])
        for _ in range(draw.randint(1, 2))
    ]  # fmt: skip
    recipe.check(recipe.parse(READY, "adapt.yaml", road.changes(sets)), "adapt.yaml")


def studies(draw: random.Random, folder: Path) -> None:
    """A study, read and checked whole: every cell of it."""
    (folder / "paper.txt").write_text("The valve opens and the river rises. " * 40)
    (folder / "study.yaml").write_text(junk.study(draw), encoding="utf-8", errors="replace")
    with contextlib.chdir(folder):
        study.read(folder / "study.yaml")


def commands(draw: random.Random, folder: Path) -> None:
    """A command line. What could start a run is only ever given recipes and documents that are not there."""
    (folder / "r.yaml").write_text(junk.recipe(draw, READY), encoding="utf-8", errors="replace")
    (folder / "binary.yaml").write_bytes(draw.randbytes(60))
    if draw.random() < 0.3:
        (folder / "report.json").write_bytes(junk.table(draw)[1])
    line = draw.choice([
        ["check", draw.choice(["r.yaml", "r.yaml", "r.yaml", "binary.yaml", "adapt", ".", "nowhere", _word(draw)])],
        ["run", draw.choice(["binary.yaml", ".", "nowhere", "nowhere.yaml"])],
        ["adapt", "nowhere"], ["list", _word(draw)], ["show", _word(draw)], ["show", "."],
        ["chat", "./nowhere"], ["papers"],
        ["chat", "--compare", "./nowhere"], [_word(draw)], [],
    ])  # fmt: skip
    extra = ["--set", f"{junk.text(draw)}={junk.text(draw)}".replace("\0", ""), "--json", "--help", "--model",
             "./nowhere",              "--budget", "soon", "--retention", "--max-tokens", "0", _word(draw)]  # fmt: skip
    line = [*line, *draw.sample(extra, draw.choice([0, 0, 1, 2]))]
    if line[:1] in (["adapt"], ["run"]):
        line = [part for part in line if part not in (".", "r.yaml", "-", "adapt")] if line[0] == "adapt" else line[:2]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["metier", *line]), mock.patch.object(sys, "stdin", io.StringIO("")),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder),
    ):  # fmt: skip
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    said = err.getvalue()
    if code not in (0, 2, 130) or "Traceback" in said + out.getvalue():
        raise Broken(f"{line}: exit code {code}, {said[-300:]!r}")
    if code == 2 and not said.strip().startswith("metier: "):
        raise Broken(f"{line}: exit code 2 without a sentence: {said[-300:]!r}")
    if code == 2:
        raise MetierError(said.strip())


def rows(draw: random.Random, folder: Path) -> None:
    """A row of some shape, read and written back."""
    row = junk.damaged(draw, draw.choice(junk.SHAPES))
    if not isinstance(row, dict):
        return
    shape = shapes.detect(row) or draw.choice(list(shapes.CARRIED))
    try:
        record = shapes.read(row, shape)
        back = shapes.write(record, shape, row)
        if json.dumps(back, sort_keys=True) != json.dumps(row, sort_keys=True):
            raise Broken(f"{shape}: {row!r} came back as {back!r}")
        shapes.write(record, draw.choice(list(shapes.CARRIED)))
    except shapes.Misfit as misfit:
        raise MetierError(str(misfit)) from None


def tables(draw: random.Random, folder: Path) -> None:
    """Records from rows that may lack ids or mix types; saved, loaded and digested."""

    def row(i: int) -> dict[str, Any]:
        names = draw.sample(["text", "label", "n", "origin", "messages"], 2)
        odd = {"id": draw.choice([f"r{i}", f"r{i}", f"r{i}", junk.value(draw, 1)])}
        return odd | {name: junk.value(draw, 2) for name in names}

    kind = draw.choice([Records, Scores])
    given = [row(i) for i in range(draw.randint(0, 5))]
    if kind is Scores:
        given = [
            {"id": f"r{i}", draw.choice(["score", "reason"]): junk.value(draw, 0)} for i in range(draw.randint(0, 4))
        ]
    found = kind.from_rows(given)
    found.save(folder)
    if kind.load(folder).digest != found.digest:
        raise Broken("the digest changes on the disk")


def read(draw: random.Random, folder: Path) -> None:
    """The bytes of a file of documents, or of records read as documents."""
    name, data = junk.table(draw) if draw.random() < 0.2 else junk.document(draw, _pdf())
    work = Work(folder / "work")
    found = documents.read(_file(draw, folder, name, data), chunk=draw.choice([1, 40, 1600]), work=work)
    _accounted(found, work)


def ingest(draw: random.Random, folder: Path) -> None:
    """The bytes of a file of records."""
    work = Work(folder / "work")
    shape, unfit = draw.choice(["auto", "auto", "auto", "free", *shapes.CARRIED]), draw.choice(["refuse", "drop"])
    found = records.read(_file(draw, folder, *junk.table(draw)), shape=shape, unfit=unfit, work=work)
    _accounted(found, work)
    for row in found:
        shapes.write(row, row["origin"]["shape"], json.loads(row["origin"]["given"] or "null"))


def _file(draw: random.Random, folder: Path, name: str, data: bytes) -> list[str]:
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(data)
    return [str(folder / "in" / name) if draw.random() < 0.5 else str(folder / "in")]


def _accounted(found: Records, work: Work) -> None:
    told = [row for row in work.rows() if row.get("event") == "read"]
    if len(set(found.column("id"))) != len(found) or len(told) != 1 or told[0]["kept"] + len(told[0]["dropped"]) != 1:
        raise Broken(f"{len(found)} rows, log: {told}")


def masks(draw: random.Random, folder: Path) -> None:
    """A conversation, whole or damaged, behind a chat template, whole or damaged."""
    template = draw.choice(TEMPLATES)
    found = talks.tokenizer(draw.choice(["bytes", "pieces"]), template)
    if draw.random() < 0.3:
        found.chat_template = junk.mangled(draw, template.text)
    if draw.random() < 0.1:
        found.chat_template = None
    record: Any = {"id": "x", "messages": talks.conversation(draw.randrange(10**6), template.system)}
    if draw.random() < 0.5:
        record = junk.damaged(draw, draw.choice([record, {"id": "x"} | draw.choice(junk.SHAPES)]))
    if isinstance(record, dict):
        ids, labels = tokens.supervised(found, record)
        if len(ids) != len(labels):
            raise Broken("labels are not as many as tokens")


def stores(draw: random.Random, folder: Path) -> None:
    """A store and checkpoints as kills, full disks and other hands leave them."""
    store, step = Store(folder / "home"), folder / "home" / "steps" / "k.part"
    for _ in range(draw.randint(1, 4)):
        with store.computing("k") as place:
            if store.manifest("k") is None:
                Work(place).log(step=1)
                checkpoint.save(place / "checkpoints", _moment(draw.randint(1, 5)))
                if draw.random() < 0.3:
                    store.commit("k", Report({"a": 1}), {"seconds": 1.0})
        files = [
            p for p in (folder / "home").rglob("*") if p.is_file() and "locks" not in p.parts and step in p.parents
        ]
        if files and draw.random() < 0.8:
            path = draw.choice(sorted(files))
            path.write_bytes(junk.changed(draw, path.read_bytes()))
        if step.exists() and draw.random() < 0.4:
            (step / draw.choice(["rows.arrow", "manifest.tmp", "x.tmp", "model"])).write_bytes(draw.randbytes(20))
        found, skipped = checkpoint.newest(step / "checkpoints")
        if found is not None and float(found.groups["weights"]["w"][0]) != found.state["step"]:
            raise Broken(f"a checkpoint that is not what was saved: {found}, {skipped}")
        read_log(step)
        if store.manifest("k") is not None and store.load("k").digest != Report({"a": 1}).digest:
            raise Broken("a finished step that is not what was committed")
    with contextlib.suppress(KeyError), replacing(folder / "out") as fresh:
        (fresh / "a").write_text("1")
        if draw.random() < 0.5:
            raise KeyError
    if (folder / "out.tmp").exists():
        raise Broken("a half-written folder stays")


SURFACES: dict[str, tuple[Callable[[random.Random, Path], None], int]] = {  # of 100 inputs
    "values": (values, 20), "recipes": (recipes, 16), "studies": (studies, 4), "changes": (changes, 8),
    "commands": (commands, 8),
    "rows": (rows, 14), "tables": (tables, 6), "read": (read, 6), "ingest": (ingest, 9), "masks": (masks, 9),
    "stores": (stores, 4),
}  # fmt: skip
TEMPLATES = talks.templates()
VALUES = ["1", "0.1", "half", "lora", "$plan.lr", "$base", "{", "[1", "*a", "!!python/object:os.system x", "a: b: c"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--inputs", type=int, default=22000)
    arguments.add_argument("--only", choices=list(SURFACES))
    arguments.add_argument("--seed", type=int)
    given = arguments.parse_args()
    failures: list[tuple[str, int, str]] = []  # surface, seed, what went wrong
    total = refused = 0
    begun = time.monotonic()
    with _apart() as root:
        for name in [given.only] if given.only else SURFACES:
            seeds = [given.seed] if given.seed is not None else range(given.inputs * SURFACES[name][1] // 100)
            counts, started = Counter[str](), time.monotonic()
            for seed in seeds:
                problem = _tried(name, seed, root)
                counts["refused" if problem == "" else "failed" if problem else "taken"] += 1
                if problem:
                    failures.append((name, seed, problem))
            total, refused = total + len(seeds), refused + counts["refused"]
            print(f"{name:<9} {len(seeds):>6} inputs  {counts['taken']:>6} taken  {counts['refused']:>6} refused"
                  f"  {counts['failed']:>4} failed  {time.monotonic() - started:>5.0f} s", flush=True)  # fmt: skip
    for (name, problem), seeds in _alike(failures).items():
        print(f"--only {name} --seed {seeds[0]}  ({len(seeds)} alike)  {problem}")
    print(
        f"{total} inputs, {refused} refused in one sentence, {len(failures)} failures, {time.monotonic() - begun:.0f} s"
    )
    return int(bool(failures))


def _tried(name: str, seed: int, root: Path) -> str | None:
    """None when the input was taken, nothing when it was refused as it should be, else what went wrong."""
    folder = root / "input"
    folder.mkdir()
    try:
        SURFACES[name][0](random.Random(f"{name}:{seed}"), folder)
    except MetierError as error:
        said = str(error)
        if not said.strip() or "\n" in said or len(said) > LONGEST:
            return f"no sentence but {len(said)} characters, {said.count(chr(10)) + 1} lines: {said[:300]!r}"
        return ""
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
        said = str(error).splitlines()[:1] or [""]
        return f"{type(error).__name__} in {Path(frames[-1].filename).name}:{frames[-1].lineno}: {said[0]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _alike(failures: list[tuple[str, int, str]]) -> dict[tuple[str, str], list[int]]:
    """Seeds of the failures that come from the same line, under what the first of them says."""
    found: dict[str, tuple[tuple[str, str], list[int]]] = {}
    for name, seed, problem in failures:
        found.setdefault(name + re.sub(r"(:\d+: ).*", r"\1", problem)[:60], ((name, problem), []))[1].append(seed)
    return dict(found.values())


@contextlib.contextmanager
def _apart() -> Iterator[Path]:
    """A temporary folder in which home, cache and working folder lie too."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        root = Path(name).resolve()
        for variable in ("HOME", "XDG_CACHE_HOME", "METIER_HOME", "TMPDIR", "HF_HOME"):
            (root / variable).mkdir()
            os.environ[variable] = str(root / variable)
        tempfile.tempdir = None
        (root / "paper.txt").write_text("The valve opens and the river rises. " * 40)  # what ready recipes read
        yield root


def _word(draw: random.Random) -> str:
    return draw.choice([junk.text(draw).replace("\0", ""), "nowhere", ".", "r.yaml", "--json", "--help", "-"])


def _moment(step: int) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint({"weights": {"w": torch.full((3,), float(step))}}, {"step": step})


@dataclasses.dataclass
class _Kept:
    pdf: bytes = b""


KEPT = _Kept()


def _pdf() -> bytes:
    if not KEPT.pdf:
        paper = FPDF()
        paper.add_page()
        paper.set_font("helvetica", size=12)
        paper.multi_cell(0, 6, "The valve opens and the river rises. " * 20)
        KEPT.pdf = bytes(paper.output())
    return KEPT.pdf


if __name__ == "__main__":
    sys.exit(main())
