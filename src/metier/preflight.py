"""What a recipe will take, said before it runs: memory, time and disk.

``foresee`` reads memory and disk off the shapes of the model and of the weights that move; nothing runs. ``trial.py``
measures instead.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from metier import options
from metier.artefacts import Model
from metier.calls import Call, references
from metier.memory import available
from metier.options import MetierError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Need:
    """Of one step: seconds (None: not known), bytes of memory while it runs, bytes it leaves on the disk."""

    step: str
    use: str
    seconds: float | None
    memory: int
    disk: int
    kept: bool = False  # the store has it


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a whole recipe; ``budget`` is the time it was told to keep to, in seconds."""

    needs: list[Need]
    budget: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of what is still to be done; None when a step's time is not known."""
        known = [n.seconds for n in self.needs if not n.kept]
        return self.budget if self.budget is not None else None if None in known else sum(s for s in known if s)

    @property
    def memory(self) -> int:
        return max((n.memory for n in self.needs if not n.kept), default=0)

    @property
    def disk(self) -> int:
        return sum(n.disk for n in self.needs if not n.kept)


def sentence(estimate: Estimate, home: Path) -> str:
    """One line: what is needed, of what there is."""
    free, room = available(), shutil.disk_usage(_there(home)).free
    memory = f"{estimate.memory / GIB:.1f} GiB of memory" + (f" ({free / GIB:.1f} free)" if free else "")
    seconds = estimate.seconds
    took = "time not known" if seconds is None else f"about {_spoken(seconds)}"
    return f"needs {memory}, {estimate.disk / GIB:.1f} GiB of disk ({room / GIB:.1f} free), {took}"


def refuse(estimate: Estimate, home: Path) -> None:
    """Raises MetierError when the recipe cannot fit this machine."""
    free, room = available(), shutil.disk_usage(_there(home)).free
    if free is not None and estimate.memory > free:
        largest = max((n for n in estimate.needs if not n.kept), key=lambda n: n.memory)
        raise MetierError(
            f"step '{largest.step}' needs {largest.memory / GIB:.1f} GiB of memory and {free / GIB:.1f} are free:"
            " lower 'micro_tokens', set 'recompute', train fewer weights, or take a smaller model"
        )
    if estimate.disk > room:
        raise MetierError(
            f"the run needs {estimate.disk / GIB:.1f} GiB of disk and {room / GIB:.1f} are free in {home}:"
            " make room or set METIER_HOME"
        )


def foresee(calls: list[Call]) -> Estimate:
    """From shapes alone: times stay unknown, unless the recipe keeps to a budget."""
    if not any(uses_model(call) for call in calls):
        return Estimate([Need(call.name, call.method.name, None, 0, 0) for call in calls])
    from metier.lm import size  # torch, only when there is something to size

    above = {call.name: call for call in calls}
    asked = functools.cache(lambda path: size.asked(found) if (found := size.network(path)) else 0)
    needs, budget = [], None
    for call in calls:
        budget = call.arguments.get("budget", budget)
        path = _model(call, above) if uses_model(call) else None
        memory, disk = asked(path) if path else 0, 0
        if path and "parameters" in call.arguments:
            memory, disk = _trained(call, path) or (memory, disk)
        needs.append(Need(call.name, call.method.name, None, memory, disk))
    return Estimate(needs, float(budget) if isinstance(budget, float | int) else None)


def _at_once(call: Call) -> tuple[int, int]:
    """Rows and tokens of the largest micro-batch of a training, when its texts are long enough."""
    from metier.lm import size

    length, tokens = call.arguments["length"], call.arguments["micro_tokens"] or size.AT_ONCE
    rows = max(1, tokens // length)
    if call.arguments["step_tokens"] is not None:
        rows = min(rows, max(1, round(call.arguments["step_tokens"] / length)))
    return min(rows, call.arguments["batch"] or rows), length


def _trained(call: Call, path: str) -> tuple[int, int] | None:
    """Bytes of memory and of disk that a training takes; None where they cannot be told without its weights."""
    from metier.lm import size
    from metier.train.setup import Network

    network, slot = size.network(path), call.arguments["parameters"]
    if network is None or sum(not p.option for p in options.parameters(slot.function)) > 1:
        return None  # what moves depends on what it is shown
    try:
        given = Network(network, cast(Any, None), Model(Path(path), ""))
        module = slot.function(given, **slot.arguments).network.module
        whole = type(module).__module__.partition(".")[0] != "peft"
        fused = hasattr(sys.modules[call.arguments["optimizer"].function.__module__], "backward")
        again = call.arguments["recompute"]
        return size.trained(module, *_at_once(call), fused=fused, recompute=again), size.written(module, whole)
    except Exception:  # a method may look at weights or tokens, which shapes have none of: the run will tell
        return None


def cells(need: Need) -> list[str]:
    """Time, memory and disk of a step in words."""
    took = "kept" if need.kept else "" if need.seconds is None else _spoken(need.seconds)
    sizes = [f"{n / GIB:.1f} GiB" if n else "" for n in (need.memory, need.disk)]
    return [took, *sizes]


def uses_model(call: Call) -> bool:
    """Whether a step opens a model: it trains one, or asks one."""
    kinds = {
        getattr(leaf, "__name__", "")
        for p in options.parameters(call.function)
        for leaf in options.leaves_of(p.annotation)
    }
    return "Chat" in kinds or any(p.kind == "spread" for p in options.parameters(call.function))


def _model(call: Call, above: Mapping[str, Call]) -> str | None:
    """The path of the model that a step opens, found by following the steps it is made of."""
    if "path" in call.arguments and call.method.returns == "Model":
        return str(call.arguments["path"])
    below = (_model(above[ref.name], above) for ref in references(call.arguments))
    return next((path for path in below if path), None)


def _there(home: Path) -> Path:
    return next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())


def _spoken(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
