"""A measure of ``report.json`` in words and figures ready to print: what the page, the card and the table share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Measured = Mapping[str, Any]
GOOD = {"non-inferior", "gain", "gained", "better", "improved", "superior", "kept"}
BAD = {"inferior", "loss", "lost", "worse"}
PLAIN = {"non-inferior": "kept", "inferior": "lost", "inconclusive": "cannot tell"}
BY_TONE = {"good": "gain", "bad": "loss", "open": "inconclusive"}
SHARES = {"accuracy", "share", "fraction", "proportion", "rate", "f1"}


class Form(NamedTuple):
    """How a unit is written: shares as per cent and their changes as points, the rest as it is."""

    scale: float
    digits: int
    level: str
    change: str


def form(measure: Measured) -> Form:
    unit = str(measure.get("unit", ""))
    if unit.split(" ")[0].lower() in SHARES:
        return Form(100.0, 1, "%", "points")
    return Form(1.0, 3, unit, unit)


def row(measure: Measured) -> dict[str, Any]:
    """Every value as text; ``raw`` is the change as a number, ``tone`` good | bad | open."""
    f, tone = form(measure), tone_of(measure)
    change, low, high, margin = (measure.get(k) for k in ("change", "low", "high", "margin"))
    verdict = str(measure.get("verdict") or BY_TONE[tone])
    levels = {k: level(measure.get(k), f) for k in ("before", "after", "control", "passages", "chance")}
    return levels | {
        "name": str(measure["name"]),
        "words": measure.get("words", ""),
        "n": measure.get("n"),
        "clusters": measure.get("clusters"),
        "unit": f.level,
        "raw": change or 0.0,
        "change": signed(change, f),
        "change_unit": f.change,
        "interval": "not known" if low is None or high is None else f"{signed(low, f)} to {signed(high, f)}",
        "margin": "" if margin is None else f"{margin * f.scale:.3g}",
        "tone": tone,
        "verdict": verdict,
        "plain": PLAIN.get(verdict, verdict),
        "direction": "lower is better" if measure["better"] == "lower" else "higher is better",
        "pooled": is_pooled(measure),
        "main": is_pooled(measure) or bool(measure.get("main")),
    }


def tone_of(measure: Measured) -> str:
    """good | bad | open: from the verdict where there is one, else from the interval (all on one side of zero)."""
    verdict, low, high = measure.get("verdict"), measure.get("low"), measure.get("high")
    if verdict:
        return "good" if verdict in GOOD else "bad" if verdict in BAD else "open"
    if low is None or high is None or low <= 0 <= high:
        return "open"
    return "good" if (low > 0) == (measure["better"] == "higher") else "bad"


def net_of(measure: Measured) -> Measured:
    """The measure with the control's change taken off; its verdict is the measure's."""
    return {**measure, **measure["net"], "name": f"{measure['name']}, net of the control", "main": True}


def gross(measure: Measured) -> Measured:
    """The plain change beside a net one: the verdict is the net one's, so this speaks by its own interval."""
    judged = measure.get("verdict") in GOOD | BAD | {"inconclusive"}
    return {**measure, "verdict": None} if judged else measure


def domain(measures: Sequence[Measured]) -> list[Measured]:
    return [m for m in measures if m["kind"] == "domain"]


def retention(measures: Sequence[Measured]) -> list[Measured]:
    """The pooled measures first."""
    return sorted((m for m in measures if m["kind"] == "retention"), key=lambda m: not is_pooled(m))


def is_pooled(measure: Measured) -> bool:
    return bool(measure.get("members")) or "pooled" in str(measure["name"])


def level(value: float | None, f: Form) -> str:
    return "–" if value is None else f"{value * f.scale:.{f.digits}f}".replace("-", "−")


def signed(value: float | None, f: Form) -> str:
    """A change with its sign; one that rounds to zero has none."""
    if value is None:
        return "–"
    text = f"{value * f.scale:+.{f.digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")
