"""Kills a small whole run at random moments, lets the same command go on, and compares every byte that is left.

``python benchmarks/kill_road.py`` runs ``kill_road.yaml`` (documents → chunks → split → LoRA with dropout, several
micro-batches a step, cosine schedule, two epochs → evaluation → report) once in one go, and then kills it with SIGKILL:
once in a fresh home and then on to the end, or again and again in the same home. Afterwards every file of the store and
of the specialist's folder must be the same as in the run of one go, but for times and costs; no file may be torn, and
none too many. The command is the real one; most processes are forked from one that has the libraries loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = Path(__file__).with_suffix(".yaml")
DOCUMENTS = ["assert", "break", "calls", "del", "else", "for", "global", "if", "import", "lambda", "pass", "raise",
             "return", "while", "yield"]  # fmt: skip
COSTS = {"seconds", "cost", "cached", "peak_memory_bytes", "date"}
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import pyarrow as pa  # noqa: E402 - the number of threads comes first
from safetensors import safe_open  # noqa: E402

from metier import cli, report  # noqa: E402
from metier.disk import read_table, table_digest  # noqa: E402
from metier.laws import toy  # noqa: E402
from metier.recipe import check, parse  # noqa: E402
from metier.store import read_log  # noqa: E402


@dataclasses.dataclass
class Place:
    """Where one command leaves its things: a store, the specialist's folder, what it said."""

    folder: Path
    common: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def out(self) -> Path:
        return self.folder / "expert"

    def arguments(self) -> list[str]:
        sets = {"base.path": self.common / "toy", "chunks.source": f"[{self.common / 'docs'}]", "out.to": self.out}
        return ["run", str(RECIPE), "--json", *(part for k, v in sets.items() for part in ("--set", f"{k}={v}"))]


@dataclasses.dataclass
class Kill:
    """One kill, and where the run stood: the step at work, and how far its training was."""

    run: int
    process: str
    at: str
    step: int
    epoch: int


def forked(place: Place) -> int:
    child = os.fork()
    if child == 0:
        place.folder.mkdir(parents=True, exist_ok=True)
        heard = os.open(place.folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(heard, 1)
        os.dup2(heard, 2)
        os.environ["METIER_HOME"] = str(place.home)
        sys.argv = ["metier", *place.arguments()]
        try:
            cli.main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(int(end.code or 0))
        finally:
            os._exit(1)
    return child


def separate(place: Place) -> int:
    place.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from metier.__main__ import main; main()", *place.arguments()]
    with (place.folder / "said.txt").open("a") as heard:
        environment = os.environ | {"METIER_HOME": str(place.home)}
        return subprocess.Popen(command, stdout=heard, stderr=heard, env=environment).pid


def killed(child: int, moment: Callable[[], bool] | None) -> bool:
    """Waits for the moment and kills; False when the run came to its end before."""
    while moment is not None and not moment():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    if moment is not None:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a run failed; what it said lies in said.txt of the folder given with --place")
    return os.WIFSIGNALED(status)


def after(seconds: float) -> Callable[[], bool]:
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


def in_training(folder: Path, step: int, more: float) -> Callable[[], bool]:
    """``more`` seconds after the step's row stands in the log."""
    due: list[float] = []

    def moment() -> bool:
        if not due and trained(folder) >= step:
            due.append(time.monotonic() + more)
        return bool(due) and time.monotonic() >= due[0]

    return moment


def trained(folder: Path) -> int:
    return max((row["step"] for row in read_log(folder) if "loss" in row), default=0)


def stood(place: Place, uses: dict[str, str], training: str, steps: int) -> tuple[str, int, int]:
    """The step at work, the training step reached (0: not in training), and its epoch."""
    parts = sorted((place.home / "steps").glob("*.part"), key=lambda p: p.stat().st_mtime)
    at = uses.get(parts[-1].stem, "?") if parts else "between steps"
    step = trained(place.home / "steps" / f"{training}.part") if parts and parts[-1].stem == training else 0
    return at, step, (1 + (step > steps // 2)) if step else 0


def state(place: Place) -> dict[str, str]:
    """File → digest of what it says, times and costs left out. A torn file raises."""
    found = {}
    for top in (place.home / "steps", place.home / "always", place.out):
        for path in sorted(p for p in top.rglob("*")):
            name = path.relative_to(place.folder).as_posix()
            found[name] = "folder" if path.is_dir() else digest(path)
    for page, make in (("report.html", report.html), ("README.md", report.card)):
        facts = json.loads((place.out / "report.json").read_text(encoding="utf-8"))
        told = (place.out / page).read_text(encoding="utf-8") == make(facts)
        found[f"expert/{page}"] = "as the report says" if told else "not what the report says"
    found |= {f"{p.name} beside": "not expected" for p in place.folder.iterdir() if ".tmp" in p.name}
    for lock in (place.home / "locks").iterdir():
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    return found


def digest(path: Path) -> str:
    if path.suffix == ".json":
        return hashed(without_costs(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix == ".jsonl":
        return hashed([without_costs(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()])
    if path.suffix == ".arrow":
        return table_digest(read_table(path))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            assert list(tensors.keys())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_costs(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_costs(v) for k, v in value.items() if k not in COSTS}
    return [without_costs(v) for v in value] if isinstance(value, list) else value


def hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def counted(place: Place) -> int:
    """Logs that say what was read, kept and dropped, each with kept + dropped = read."""
    found = 0
    for log in (place.home / "steps").glob("*/log.jsonl"):
        for row in read_log(log.parent):
            if {"read", "kept", "dropped"} <= set(row):
                assert row["read"] == row["kept"] + sum(row["dropped"].values()), (log, row)
                found += 1
    return found


def main(kills: int, separately: int, seed: int, folder: Path) -> dict[str, Any]:
    for name in DOCUMENTS:
        (folder / "docs").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / "python_reference" / f"{name}.txt", folder / "docs")
    toy.write(folder / "toy")
    own = {"chunks.source": [str(folder / "docs")]}
    check(parse(RECIPE.read_text(encoding="utf-8"), RECIPE.name, own))  # loads what the children would load
    pa.set_cpu_count(1)
    whole = Place(folder / "whole", folder)
    begun = time.monotonic()
    killed(forked(whole), None)
    seconds = time.monotonic() - begun
    expected, counts = state(whole), counted(whole)
    manifests = {p.parent.name: json.loads(p.read_text()) for p in (whole.home / "steps").glob("*/manifest.json")}
    uses = {key: m["use"] for key, m in manifests.items()}
    training = next(key for key, use in uses.items() if use.startswith("train.loop."))
    steps = trained(whole.home / "steps" / training)

    draw = random.Random(seed)
    done: list[Kill] = []
    unequal: dict[int, list[str]] = {}
    run = 0
    while len(done) < kills:
        run += 1
        place = Place(folder / f"killed-{run}", folder)
        # Every third home is killed again and again, the others once; real processes come last, as they are slow.
        often = 4 if run % 3 == 0 else 1
        for _ in range(min(often, kills - len(done))):
            apart = kills - len(done) <= separately
            part = place.home / "steps" / f"{training}.part"
            inside = draw.random() < 0.6
            step, more = draw.randint(trained(part) + 1, max(steps, trained(part) + 1)), draw.uniform(0, 0.1)
            wait = draw.uniform(0, seconds) + (draw.uniform(0, 8) if apart else 0)
            child = separate(place) if apart else forked(place)
            if not killed(child, in_training(part, step, more) if inside else after(wait)):
                break
            done.append(Kill(run, "separate" if apart else "forked", *stood(place, uses, training, steps)))
        killed(forked(place), None)
        now = state(place)
        different = sorted(k for k in expected.keys() | now.keys() if expected.get(k) != now.get(k))
        if different or counted(place) != counts:
            unequal[run] = different
        else:
            shutil.rmtree(place.folder)
    weights = {k: v for k, v in expected.items() if k.startswith("expert/") and k.endswith(".safetensors")}
    return {
        "kills": [dataclasses.asdict(k) for k in done], "runs": run, "training_steps": steps,
        "seconds": round(seconds, 1), "in_first_epoch": sum(k.epoch == 1 for k in done),
        "in_second_epoch": sum(k.epoch == 2 for k in done),
        "files_compared": len(expected), "weights": weights, "equal": not unequal, "unequal": unequal,
    }  # fmt: skip


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--kills", type=int, default=30)
    options.add_argument("--separate", type=int, default=4, help="how many of them in a process of its own")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--place", type=Path, help="keep everything in this new folder")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = main(given.kills, given.separate, given.seed, (given.place or Path(temporary)).resolve())
    for kill in found["kills"]:
        stand = f" training step {kill['step']} of {found['training_steps']}, epoch {kill['epoch']}"
        print(f"run {kill['run']:>2}  {kill['process']:<9} killed in {kill['at']:<26}" + stand * bool(kill["step"]))
    print(json.dumps(found))
    sys.exit(0 if found["equal"] else 1)
