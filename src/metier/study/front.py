"""The Pareto picture: what every arm gains in one measure against what it keeps in another, from the reference arm.

Better is right and up, whatever the measures; the front is the line that no arm lies beyond. Areas tell the cost.
Where the grid is one of numbers, a thin line joins the runs of an arm, and its name stands at the last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from metier.figures import COLOURS, Span, Tone, svg

SIZE, LEFT, RIGHT, TOP, BOTTOM = (680, 440), 78, 24, 14, 58  # in pixels
LETTER = 6.7  # wide, about, at 12.5 pixels
NEARER = 400  # square pixels that a name may cover before it stands nearer to another spot
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclasses.dataclass(frozen=True)
class Spot:
    """One arm: changes and the ends of their intervals, ``share`` of the highest cost (None: not known)."""

    name: str
    x: float
    y: float
    across: tuple[float, float] | None
    along: tuple[float, float] | None
    tone: Tone
    share: float | None
    after: int | None = None  # the number of the spot that it goes on from

    @property
    def diameter(self) -> float:
        return 9.0 if self.share is None else 6.0 + 11.0 * math.sqrt(self.share)


@dataclasses.dataclass(frozen=True)
class Axis:
    title: str
    span: Span
    scale: float
    margin: float | None  # where a loss begins to count, signed


def picture(spots: Sequence[Spot], front: Sequence[Spot], x: Axis, y: Axis, label: str) -> str:
    """The SVG; a screen reader says ``label``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0] / 72, SIZE[1] / 72))
    wide, high = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
    axes = figure.add_axes((LEFT / SIZE[0], BOTTOM / SIZE[1], wide / SIZE[0], high / SIZE[1]))
    axes.set_xlim(*x.span)
    axes.set_ylim(*y.span)
    _frame(axes, x, y)
    _stairs(axes, front, x.span, y.span)
    for spot in sorted(spots, key=lambda s: s.tone == "good"):
        _draw(axes, spot)
        if spot.after is not None:
            before = spots[spot.after]
            axes.plot(
                (before.x, spot.x), (before.y, spot.y), color=COLOURS[spot.tone], linewidth=1, alpha=0.45, zorder=2
            )

    def place(px: float, py: float) -> tuple[float, float]:
        return (
            wide * (px - x.span.left) / (x.span.right - x.span.left),
            high * (py - y.span.left) / (y.span.right - y.span.left),
        )

    for spot, (at, side) in zip(spots, _labels(spots, place, (wide, high)), strict=True):
        axes.annotate(spot.name, (spot.x, spot.y), xytext=at, textcoords="offset pixels", ha=side, va="center",
                      fontsize=12.5, color=COLOURS[spot.tone], annotation_clip=False, zorder=7)  # fmt: skip
    return svg(figure, label)


def _frame(axes: Any, x: Axis, y: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set(color=COLOURS["soft"])
    axes.grid(color=COLOURS["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=COLOURS["soft"], labelsize=12, pad=6)
    for axis, scale in ((axes.xaxis, x.scale), (axes.yaxis, y.scale)):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda t, _, scale=scale: _number(t * scale)))
    axes.axvline(0, color=COLOURS["soft"], linewidth=1, zorder=1)
    axes.axhline(0, color=COLOURS["soft"], linewidth=1, zorder=1)
    if x.margin is not None:
        axes.axvline(x.margin, color=COLOURS["soft"], linewidth=1.2, dashes=(4, 3), zorder=1)
    if y.margin is not None:
        axes.axhline(y.margin, color=COLOURS["soft"], linewidth=1.2, dashes=(4, 3), zorder=1)
    axes.set_xlabel(f"{x.title} →", color=COLOURS["soft"], fontsize=13, loc="right", labelpad=10)
    axes.set_ylabel(f"{y.title} →", color=COLOURS["soft"], fontsize=13, loc="top", labelpad=10)


def _stairs(axes: Any, front: Sequence[Spot], x: Span, y: Span) -> None:
    """The edge of what the front reaches: left of its best in y, down from its best in x."""
    turn = 1 if x.right > x.left else -1
    steps = sorted(front, key=lambda s: turn * s.x)
    if not steps:
        return
    points = [(x.left, steps[0].y)]
    for this, after in zip(steps, [*steps[1:], None], strict=True):
        points += [(this.x, this.y), (this.x, after.y if after else y.left)]
    axes.plot(*zip(*points, strict=True), color=COLOURS["good"], linewidth=1.4, alpha=0.55, zorder=2)


def _draw(axes: Any, spot: Spot) -> None:
    colour = COLOURS[spot.tone]
    for ends, level, across in ((spot.across, spot.y, True), (spot.along, spot.x, False)):
        if ends is not None:
            line = (ends, (level, level)) if across else ((level, level), ends)
            axes.plot(*line, color=colour, linewidth=1.6, alpha=0.75, solid_capstyle="butt", zorder=3)
    axes.plot([spot.x], [spot.y], marker="s" if spot.tone == "base" else "o", markersize=spot.diameter, color=colour,
              markerfacecolor=COLOURS["paper"] if spot.tone == "open" else colour, markeredgecolor=colour,
              markeredgewidth=2, linestyle="none", clip_on=False, zorder=5)  # fmt: skip


def _labels(spots: Sequence[Spot], place: Any, size: tuple[float, float]) -> list[tuple[tuple[float, float], str]]:
    """For every spot the offset of its name and the side it hangs on: on little else, and nearest to its own spot."""
    taken: list[Box] = []
    for spot in spots:
        (px, py), r = place(spot.x, spot.y), spot.diameter / 2 + 1
        taken.append((px - r, py - r, px + r, py + r))
        for ends, across in ((spot.across, True), (spot.along, False)):
            for end in ends or ():
                ex, ey = place(end, spot.y) if across else place(spot.x, end)
                taken.append((min(px, ex) - 1, min(py, ey) - 1, max(px, ex) + 1, max(py, ey) + 1))
    found: list[tuple[tuple[float, float], str]] = []
    for spot in spots:
        (px, py), r = place(spot.x, spot.y), spot.diameter / 2 + 5
        long = LETTER * len(spot.name)
        others = [place(other.x, other.y) for other in spots if other.name and other is not spot]
        options = []
        for rank, (side, dx, dy) in enumerate(
            (side, dx, dy) for dy in (11, -11, 24, -24, 37, -37, 0) for side, dx in (("left", r), ("right", -r))
        ):
            left = px + dx if side == "left" else px + dx - long
            box = (left, py + dy - 8, left + long, py + dy + 8)
            outside = max(0, -box[0]) + max(0, box[2] - size[0]) + max(0, -box[1]) + max(0, box[3] - size[1])
            nearer = sum(_gap(box, other) <= _gap(box, (px, py)) for other in others)
            cost = sum(_common(box, other) for other in taken) + 20 * outside + NEARER * nearer + rank
            options.append((cost, (dx, dy), side, box))
        _, at, side, box = min(options, key=lambda o: o[0])
        taken.append(box)
        found.append((at, side))
    return found


def _common(a: Box, b: Box) -> float:
    """The area two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _gap(box: Box, point: tuple[float, float]) -> float:
    """From a point to the nearest of a box."""
    x, y = (max(box[i] - point[i], 0, point[i] - box[i + 2]) for i in (0, 1))
    return math.hypot(x, y)


def _number(value: float) -> str:
    text = f"{value:.6g}"
    return "0" if float(text) == 0 else text.replace("-", "−") if value < 0 else f"+{text}"
