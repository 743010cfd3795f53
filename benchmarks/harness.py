"""What the benchmarks share: a peer in an environment of its own, interleaved rounds, and a row of the table.

A side is a process that prepares itself, then does one round of work for every line on its standard input and prints
what the round was as a line of JSON. Two sides take turns, so that whatever slows the machine slows both; the ratio is
that of the medians of their rounds, its range that of the single pairs.

Only the standard library, because a peer's environment reads this file too (``serve``).
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = ROOT / ".peers"  # the environments, made once
PAIRS = 5
HOLDS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "±": lambda ratio, off: abs(ratio - 1) <= off}
Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. ``bar``: a sign and a number (``>= 2.0``; ``± 0.2``: about 1), empty if there is none."""

    work: str
    against: str
    ratio: float
    low: float
    high: float
    bar: str
    unit: str  # what is divided by what
    pairs: int
    machine: str
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is no bar."""
        if not self.bar:
            return None
        sign, number = self.bar.split()
        return bool(HOLDS[sign](self.ratio, float(number)))


def python(peer: str) -> str:
    """The interpreter of ``peers/<peer>.txt``, whose environment is made when it is first asked for."""
    needs, home = HERE / "peers" / f"{peer}.txt", PEERS / peer
    made = home / "installed.txt"
    if not made.exists() or made.read_bytes() != needs.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(needs)], check=True)
        made.write_bytes(needs.read_bytes())
    return str(home / "bin" / "python")


class Side:
    """A process that does rounds: ``with Side(script, "ours") as side: side.round()``."""

    def __init__(self, script: str | Path, *arguments: str, python: str = sys.executable) -> None:
        self.command = [python, str(script), *arguments]

    def __enter__(self) -> Side:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def round(self) -> Round:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"{' '.join(self.command)}: ended before its round") from None
        for line in self.process.stdout:
            if line.startswith('{"'):  # libraries print beside it, Python dicts too
                found: Round = json.loads(line)
                return found
        raise SystemExit(f"{' '.join(self.command)}: ended without a result, exit code {self.process.wait()}")

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(work: Callable[[], Round]) -> None:
    """The other end: one call of ``work`` a line on standard input."""
    for _ in sys.stdin:
        print(json.dumps(work()), flush=True)


def interleaved(
    ours: Side, theirs: Side, pairs: int = PAIRS, agree: Callable[[Round, Round], None] | None = None
) -> list[tuple[Round, Round]]:  # fmt: skip
    """Rounds of both in turn; who goes first changes. The first pair warms up and is thrown away.

    ``agree`` sees every pair, the first one before anything is timed, and ends the benchmark where the work differs.
    """
    with ours, theirs:
        found = []
        for number in range(pairs + 1):
            if number % 2:
                second = theirs.round()
                found.append((ours.round(), second))
            else:
                found.append((ours.round(), theirs.round()))
            if agree is not None:
                agree(*found[-1])
    return found[1:]


def ratio(pairs: Sequence[tuple[Round, Round]], key: str, inverse: bool = False) -> tuple[float, float, float]:
    """(ratio of medians, lowest, highest of a pair): ours / theirs of ``key``, or theirs / ours when ``inverse``."""
    sides = [(b[key], a[key]) if inverse else (a[key], b[key]) for a, b in pairs]
    over = statistics.median(a for a, _ in sides) / statistics.median(b for _, b in sides)
    single = [a / b for a, b in sides]
    return over, min(single), max(single)


def machine() -> str:
    """The processor, its cores that may be used, and the card if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    said = f"{cores} cores, {named[1] if named else 'processor unknown'}"
    torch = sys.modules.get("torch")
    return f"{torch.cuda.get_device_name(0)}; {said}" if torch is not None and torch.cuda.is_available() else said
