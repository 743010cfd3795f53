"""Learning-rate policies as pure functions of a step, under the names they have in LRBench (paper 112).

``value("TRI", i, Knobs(low=0.1, high=0.5, length=10))``. i is the step from 0, or the share of the training that is
done: the formulas know no unit, only that ``length`` and ``bounds`` have the same one. A cycle takes two lengths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from metier.options import MetierError

Fraction = Annotated[float, Field(gt=0, le=1)]
Height = Literal["same", "halved"] | Fraction


@dataclasses.dataclass(frozen=True)
class Knobs:
    """What the formulas know, and the letters of the paper. What is not given is no number."""

    low: float = math.nan  # k0
    high: float = math.nan  # k1
    decay: float = math.nan  # γ
    power: float = math.nan  # p
    length: float = math.nan  # l
    bounds: Sequence[float] = ()  # l, where it is a list
    fix_restart: bool = True  # else the rate is the low one in the very step of a restart


Formula = Callable[[float, Knobs], float]
Shape = Callable[[float], float]


def value(name: str, i: float, knobs: Knobs) -> float:
    """The rate at step i. Raises MetierError for an unknown policy, or one that lacks a number."""
    if name not in POLICIES:
        raise MetierError(f"there is no learning-rate policy '{name}'; there are: {', '.join(POLICIES)}")
    needs, formula = POLICIES[name]
    for need in needs:
        if math.isnan(getattr(knobs, need)):
            raise MetierError(f"the learning-rate policy {name} needs '{need}'")
    return formula(i, knobs)


def fading(name: str, height: Height) -> tuple[str, float]:
    """The policy of this family whose peaks fall like that, and its decay."""
    if isinstance(height, str):
        return name + ("2" if height == "halved" else ""), math.nan
    return f"{name}EXP", height


def triangle(phase: float) -> float:
    """0 at even phases, 1 at odd ones, straight between."""
    return 2 / math.pi * abs(math.asin(math.sin(math.pi * phase / 2)))


def sine(phase: float) -> float:
    return abs(math.sin(math.pi * phase / 2))


def cosine(phase: float) -> float:
    return (1 - math.cos(math.pi * phase)) / 2


def sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


def saw(i: float, k: Knobs) -> float:
    """Falls from 1 to 0 in every length; exactly at a restart it is 0 in the paper's code and 1 when that is fixed."""
    found = -i / k.length - math.floor(-i / k.length)
    return 1.0 if found == 0 and k.fix_restart else found


def _wave(shape: Shape, ahead: int, fade: str) -> Formula:
    """A cycle of two lengths; ``ahead`` of it by one it starts at the top."""

    def rate(i: float, k: Knobs) -> float:
        phase = i / k.length + ahead
        return k.low + (k.high - k.low) * shape(phase) * _left(fade, math.floor(phase / 2), i, k)

    return rate


def _restarting(shape: Shape, fade: str) -> Formula:
    return lambda i, k: k.low + (k.high - k.low) * shape(saw(i, k)) * _left(fade, math.floor(i / k.length), i, k)


def _left(fade: str, cycles: int, i: float, k: Knobs) -> float:
    """Of the height: half as much after each cycle, or a power."""
    return {"": 1.0, "2": 0.5**cycles, "EXP": k.decay**i}[fade]


WAVES = {"TRI": (triangle, 0), "DTRI": (triangle, 1), "SIN": (sine, 0), "DSIN": (sine, 1),
         "UPCOS": (cosine, 0), "COS": (cosine, 1)}  # fmt: skip
SAWS: dict[str, Shape] = {"RSW": lambda s: s, "SINRSW": sine, "COSRSW": cosine}
FADES = {"": ("low", "high", "length"), "2": ("low", "high", "length"), "EXP": ("low", "high", "length", "decay")}
POLICIES: dict[str, tuple[Sequence[str], Formula]] = {
    "FIX": (("low",), lambda i, k: k.low),
    "STEP": (("low", "decay", "length"), lambda i, k: k.low * k.decay ** math.floor(i / k.length)),
    "NSTEP": (("low", "decay"), lambda i, k: k.low * k.decay ** sum(bound <= i for bound in k.bounds)),
    "EXP": (("low", "decay"), lambda i, k: k.low * k.decay**i),
    "INV": (("low", "decay", "power"), lambda i, k: k.low * (1 + k.decay * i) ** -k.power),
    "POLY": (
        ("low", "high", "power", "length"),
        lambda i, k: (k.high - k.low) * (1 - i / k.length) ** k.power + k.low,
    ),
    "SIG": (("low", "decay", "length"), lambda i, k: k.low * sigmoid(k.decay * (i - k.length))),
    **{n + fade: (needs, _wave(*wave, fade)) for n, wave in WAVES.items() for fade, needs in FADES.items()},
    **{n + fade: (needs, _restarting(shape, fade)) for n, shape in SAWS.items() for fade, needs in FADES.items()},
}
