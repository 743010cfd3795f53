"""The plots of the report as SVG text: drawn by matplotlib, coloured by the page.

matplotlib draws with stand-in colours; they become CSS variables (``var(--good)``), so that one file serves light and
dark. The same input gives the same bytes: no dates, no random ids. Sizes are in CSS pixels.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tone = str  # good | bad | open | base | control | passages
WIDTH, ROW, AXIS = 340, 26, 24  # of a strip
PAD = 0.03  # of the width, free at both ends of a strip
MARKS = {"good": "o", "bad": "D", "open": "o", "base": "o", "control": "s", "passages": "^"}
HOLLOW = {"open", "control"}  # told apart by shape and filling as well as by colour
NAMES = ("soft", "rule", "paper", "good", "bad", "open", "base", "control", "passages")
COLOURS = {name: f"#0102{i:02x}" for i, name in enumerate(NAMES, 16)}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "metier",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


class Span(NamedTuple):
    """The ends of an axis in units of the measure; ``left`` > ``right`` where lower is better, so better is right."""

    left: float
    right: float

    @classmethod
    def around(cls, values: Sequence[float], *, better: str, zero: bool = True) -> Span:
        """Wide enough for all values (and zero), with air on both sides."""
        shown = [*values, 0.0] if zero else list(values)
        low, high = min(shown), max(shown)
        air = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
        ends = (low - air, high + air)
        return cls(*(ends if better == "higher" else ends[::-1]))

    def place(self, value: float) -> float:
        """Where a value lies on a strip, in per cent from the left: for lines that go through many rows."""
        return 100 * (PAD + (1 - 2 * PAD) * (value - self.left) / (self.right - self.left))


class Line(NamedTuple):
    name: str
    tone: Tone
    x: Sequence[float]
    y: Sequence[float]


def interval(value: float, low: float | None, high: float | None, span: Span, tone: Tone) -> str:
    """One row of a forest plot: interval and estimate. Zero and margin go through all rows: the page draws them."""
    figure, axes = _strip(span, ROW)
    if low is not None and high is not None:
        axes.plot([low, high], [0, 0], color=COLOURS[tone], linewidth=2.6, solid_capstyle="butt", clip_on=False)
    _mark(axes, value, tone, 8)
    return svg(figure)


def axis(span: Span, scale: float = 1.0, *, signed: bool = True) -> str:
    """The axis under such rows; ``scale`` turns shares into points, ``signed`` writes changes with their sign."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    figure, axes = _strip(span, AXIS)
    low, high = sorted(span)
    ticks = [t for t in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low * scale, high * scale)
             if low * scale <= t <= high * scale]  # fmt: skip
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 1
    digits += (ticks[1] - ticks[0]) * 10**digits % 1 > 1e-6 if len(ticks) > 1 else 0
    axes.xaxis.set_major_locator(FixedLocator([t / scale for t in ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: _number(t * scale, digits, signed)))
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(axis="x", length=4, color=COLOURS["soft"], labelcolor=COLOURS["soft"], labelsize=12, pad=-19,
                     direction="in")  # fmt: skip
    axes.spines["top"].set(visible=True, color=COLOURS["soft"], linewidth=1)
    return svg(figure)


def level(value: float, start: float | None, span: Span, tone: Tone) -> str:
    """One row of levels: a mark, and the way it came from ``start``."""
    figure, axes = _strip(span, ROW)
    if start is not None:
        axes.plot([start, value], [0, 0], color=COLOURS[tone], linewidth=2.2, solid_capstyle="butt", clip_on=False)
    _mark(axes, value, tone, 8)
    return svg(figure)


def curves(lines: Sequence[Line], label: str, *, smooth: bool = False, size: tuple[int, int] = (270, 190)) -> str:
    """Lines over training steps, named at their ends. A screen reader says ``label``; ``smooth`` adds a mean."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(size[0] / 72, size[1] / 72))
    named = len(lines) > 1
    axes = figure.add_axes((0.15, 0.13, 0.6 if named else 0.8, 0.8))
    for line in lines:
        dashes = (None, None) if line.tone != "control" else (4, 2)
        if smooth:
            axes.plot(line.x, line.y, color=COLOURS[line.tone], linewidth=0.8, alpha=0.3, clip_on=False)
        axes.plot(line.x, _running_mean(line.y) if smooth else line.y, color=COLOURS[line.tone], linewidth=2,
                  dashes=dashes, marker=None if len(line.y) > 12 else "o", markersize=4, clip_on=False)  # fmt: skip
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set(color=COLOURS["soft"])
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(length=0, labelcolor=COLOURS["soft"], labelsize=11.5)
    bottom, top = axes.get_ylim()
    ends = sorted(((_running_mean(line.y)[-1] if smooth else line.y[-1], line) for line in lines if named),
                  key=lambda end: end[0])  # fmt: skip
    at = bottom
    for height, line in ends:
        at = max(height, at + 0.1 * (top - bottom) if at > bottom else height)
        axes.annotate(line.name, (line.x[-1], at), xytext=(7, 0), textcoords="offset points", va="center",
                      color=COLOURS[line.tone], fontsize=12, annotation_clip=False)  # fmt: skip
    return svg(figure, label)


def _strip(span: Span, height: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((PAD, 0, 1 - 2 * PAD, 1))
    axes.set_xlim(*span)
    axes.set_ylim(-1, 1)
    axes.yaxis.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelbottom=False)
    axes.patch.set_visible(False)
    return figure, axes


def _mark(axes: Axes, value: float, tone: Tone, size: float) -> None:
    axes.plot([value], [0], marker=MARKS[tone], markersize=size, linestyle="none", clip_on=False, zorder=5,
              markerfacecolor=COLOURS["paper" if tone in HOLLOW else tone], markeredgecolor=COLOURS[tone],
              markeredgewidth=2)  # fmt: skip


def _running_mean(values: Sequence[float], keep: float = 0.85) -> list[float]:
    """Exponential, and unbiased at the start, where a plain one would lean towards its first value."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _number(value: float, digits: int, signed: bool) -> str:
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return "0"
    return ("−" if value < 0 else "+" if signed else "") + text.lstrip("-")


def svg(figure: Figure, label: str = "") -> str:
    import matplotlib

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _tidy(buffer.getvalue(), label)


def _tidy(svg: str, label: str) -> str:
    """matplotlib's file → an element that can stand in a page many times: no prolog, no style for all, own ids."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r" font-family: [^;]+;| transform=\"rotate\(-0 [^\"]+\"", "", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    salt = "f" + hashlib.sha256((label + body).encode()).hexdigest()[:10]
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{salt}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{salt}-", body).replace("xlink:href", "href")
    empty = r"<g>\s*</g>|<g/>|<defs>\s*</defs>"
    while re.search(empty, body):
        body = re.sub(empty, "", body)
    body = re.sub(r"\s+", " ", body).replace("> <", "><")
    shown = f'role="img" aria-label="{html.escape(label)}"' if label else 'aria-hidden="true"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1] if box else ""}" {shown}>{body.strip()}'
