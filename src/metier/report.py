"""The report in three forms: a page, a model card and the rows of a table. Facts in, text out.

``facts`` is ``report.json``. Only ``measures`` has to be there; a section whose facts are missing is left out.
Documents and replies are untrusted: everything is escaped, the page holds no script and may load nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from metier import figures
from metier.figures import Line, Span
from metier.measures import Measured, domain, form, gross, level, net_of, retention, row, tone_of
from metier.text import written
from metier.text.written import count, seconds, size

Facts = Mapping[str, Any]
TEMPLATES = Path(__file__).parent / "templates"
FILTERS: dict[str, Callable[..., Any]] = {
    "seconds": seconds,
    "size": size,
    "count": count,
    "percent": written.percent,
    "told": written.told,
    "looks_like_code": written.looks_like_code,
    "cell": written.cell,
    "quoted": json.dumps,
}
LONG_TEXT = 520  # characters shown before the fold
SMOOTH_FROM = 30  # steps from which single losses hide the course
WHO = (
    ("Base", "before", "base", "untrained"),
    ("Control", "control", "control", "as many steps, general text"),
    ("Base + passage", "passages", "passages", "untrained, looks things up"),
    ("Specialist", "after", "good", "trained on the documents"),
)


def html(facts: Facts) -> str:
    """One self-contained page: no network, no script; light, dark and print."""
    view = {
        "key": key_figures(facts),
        "panels": panels(facts["measures"]),
        "levels": [levels(m) for m in domain(facts["measures"])],
        "retention": [row(m) for m in retention(facts["measures"])],
        "curves": training_curves(facts.get("curves") or {}),
        "funnel": funnel(facts.get("data") or {}),
        "cost": cost_by_step(facts),
        "long": LONG_TEXT,
    }
    return render("report.html.j2", facts, view, escape=True)


def card(facts: Facts) -> str:
    """A model card: Hugging Face front matter, what it is, how it was made, numbers with intervals, limits."""
    nets = [row({**m, **m["net"]}) for m in facts["measures"] if m.get("net")]
    view = {"rows": [row(m) for m in facts["measures"]], "nets": nets}
    return render("model_card.md.j2", facts, view, escape=False)


def table(facts: Facts) -> list[tuple[str, ...]]:
    """A header and a row per measure: what was measured, before, after, change with its interval, verdict."""
    rows: list[tuple[str, ...]] = [("measure", "before", "after", "change", "interval", "verdict")]
    for measure in facts["measures"]:
        r = row(gross(measure) if measure.get("net") else measure)
        change = f"{r['change']} {r['change_unit']}"
        rows.append((r["name"], r["before"], r["after"], change, r["interval"], r["verdict"]))
        if measure.get("net"):
            r = row(net_of(measure))
            change = f"{r['change']} {r['change_unit']}"
            rows.append(("  net of the control", "", "", change, r["interval"], r["verdict"]))
    return rows


def headline(facts: Facts) -> str:
    """A sentence from the numbers alone, for facts that bring none."""
    parts = [f"{k['title']}: {k['value']} {k['unit']}".strip() for k in key_figures(facts)]
    return "; ".join(parts) + "." if parts else "Nothing was measured."


def remarks(facts: Facts) -> list[str]:
    """What has to be said beside the table: how text was held out, what overlaps, what went otherwise than asked."""
    data = facts.get("data") or {}
    overlap = data.get("overlap") or {}
    found = []
    if overlap.get("test") is not None:
        by = "in contiguous sections" if data.get("how") == "sections" else "in groups of documents that share text"
        random = overlap.get("dealt_at_random")
        else_ = f"; {random:.0%} would have, had whole documents been dealt at random" if random is not None else ""
        found.append(
            f"held out {by}: {overlap['test']:.2%} of the test's 13-word sequences stand in training text{else_}"
        )
    return [
        *found,
        *(data.get("notes") or []),
        *((facts.get("plan") or {}).get("notes") or []),
        *(facts.get("notes") or []),
    ]


def key_figures(facts: Facts) -> list[dict[str, str]]:
    """What a manager reads: the gain, what became of general skills, time. Each: title, value, unit, note, tone."""
    found = []
    if measures := domain(facts["measures"]):
        found.append(_gain(measures[0]))
    if kept := retention(facts["measures"]):
        found.append(_kept([row(m) for m in kept]))
    cost = facts.get("cost") or {}
    if cost.get("seconds") is not None:
        told = (("peak_memory_bytes", size, "memory at most"), ("tokens_trained", count, "tokens read in training"),
                ("parameters_trained", count, "weights trained"))  # fmt: skip
        note = ", ".join(f"{words(cost[k])} {what}" for k, words, what in told if cost.get(k))
        found.append({"title": "Time", "value": seconds(cost["seconds"]), "unit": "training, control and all tests",
                      "note": f"{note}." if note else "", "tone": "ink"})  # fmt: skip
    return found


def panels(measures: Sequence[Measured]) -> list[dict[str, Any]]:
    """The picture of every change: rows of one kind and unit share an axis; better is always to the right.

    Retention without a margin stands apart: its few rows have intervals beside which no other could be seen.
    """
    groups: dict[tuple[str, str, str, bool], list[Measured]] = {}
    for m in [*domain(measures), *retention(measures)]:
        shown = [net_of(m), gross(m)] if m.get("net") else [m]
        known = [s for s in shown if s.get("change") is not None]
        judged = m["kind"] == "domain" or m.get("margin") is not None
        groups.setdefault((m["kind"], form(m).change, m["better"], judged), []).extend(known)
    found = []
    for (kind, unit, better, _), rows in groups.items():
        if not rows:
            continue
        worse = 1 if better == "lower" else -1
        ends = [r[k] for r in rows for k in ("low", "high", "change") if r.get(k) is not None]
        ends += [worse * r["margin"] for r in rows if r.get("margin") is not None]
        span = Span.around(ends, better=better)
        drawn = []
        for r in rows:
            strip = figures.interval(r["change"], r.get("low"), r.get("high"), span, tone_of(r))
            edge = None if r.get("margin") is None else span.place(worse * r["margin"])
            drawn.append(row(r) | {"strip": Markup(strip), "edge": edge})
        axis = Markup(figures.axis(span, form(rows[0]).scale))
        found.append({"kind": kind, "unit": unit, "rows": drawn, "zero": span.place(0.0), "axis": axis})
    return found


def levels(measure: Measured) -> dict[str, Any]:
    """A domain measure as it stands for base, control, base with passages and specialist, on one axis."""
    f, present = form(measure), [who for who in WHO if measure.get(who[1]) is not None]
    if not present:
        return row(measure) | {"rows": []}
    marks = {name: measure[k] for name, k in (("start", "before"), ("guess", "chance")) if measure.get(k) is not None}
    span = Span.around([*(measure[k] for _, k, _, _ in present), *marks.values()], better=measure["better"], zero=False)
    rows = [
        {"name": name, "note": note, "tone": tone, "value": level(measure[k], f),
         "strip": Markup(figures.level(measure[k], measure.get("before"), span, tone))}
        for name, k, tone, note in present
    ]  # fmt: skip
    lines = {name: span.place(value) for name, value in marks.items()}
    return row(measure) | {"rows": rows, "lines": lines, "axis": Markup(figures.axis(span, f.scale, signed=False))}


def training_curves(curves: Facts) -> list[dict[str, Any]]:
    """Small multiples: training loss, held-out loss, learning rate. A plot without points is left out."""
    specialist, control, dev = (curves.get(k) or [] for k in ("expert", "control", "dev"))
    dev_key = next((k for k in ("bits_per_byte", "dev_bits_per_byte", "dev_loss") if any(k in r for r in dev)), "loss")
    dev_unit = "bits per byte" if "bits" in dev_key else "nats per token"
    plots = (
        ("Loss on what it reads", "nats per token", (("specialist", "good", specialist, "loss"),
                                                     ("control", "control", control, "loss"))),
        ("Loss on held-out documents", dev_unit, (("specialist", "good", dev, dev_key),)),
        ("Learning rate", "", (("specialist", "good", specialist, "lr"),)),
    )  # fmt: skip
    found = []
    for title, unit, sources in plots:
        lines = [line for source in sources if (line := _line(*source)).x]
        if lines:
            ends = "; ".join(f"{x.name} from {x.y[0]:.4g} to {x.y[-1]:.4g} in {x.x[-1]} steps" for x in lines)
            smooth = sources[0][3] == "loss" and max(len(x.y) for x in lines) > SMOOTH_FROM
            plot = figures.curves(lines, f"{title}: {ends}", smooth=smooth)
            found.append({"title": title, "unit": unit, "plot": Markup(plot)})
    return found


def funnel(data: Facts) -> list[dict[str, Any]]:
    """Read → dropped, reason by reason → kept, each with its place (per cent from the left) on a common bar."""
    read = data.get("read") or 0
    if not read:
        return []
    steps, left = [{"name": "read", "n": read, "start": 0.0, "wide": 100.0, "kind": "read"}], read
    for reason, n in sorted((data.get("dropped") or {}).items(), key=lambda item: (-item[1], item[0])):
        left -= n
        steps.append({"name": reason, "n": n, "start": 100 * left / read, "wide": 100 * n / read, "kind": "dropped"})
    kept = data.get("kept", left)
    return [*steps, {"name": "kept", "n": kept, "start": 0.0, "wide": 100 * kept / read, "kind": "kept"}]


def cost_by_step(facts: Facts) -> dict[str, Any]:
    """Steps with their seconds and the length of their bar; those under a hundredth of the whole are one row."""
    steps = {s["name"]: s for s in facts.get("steps") or []}
    spent = (facts.get("cost") or {}).get("by_step") or {n: s["seconds"] for n, s in steps.items() if "seconds" in s}
    total = sum(spent.values())
    short = [name for name, s in spent.items() if s < 0.01 * total]
    rows = [{"name": name, "seconds": s} | {k: steps.get(name, {}).get(k, "") for k in ("use", "cached")}
            for name, s in spent.items() if name not in short]  # fmt: skip
    if short:
        rest = sum(spent[name] for name in short)
        rows.append({"name": f"{len(short)} short steps", "seconds": rest, "use": ", ".join(short), "cached": ""})
    longest = max((r["seconds"] for r in rows), default=0.0) or 1.0
    return {"steps": [r | {"wide": 100 * r["seconds"] / longest} for r in rows], "total": total} if rows else {}


def render(template: str, facts: Facts, view: Facts, *, escape: bool) -> str:
    """A page or a text from one of the templates; the facts and what is drawn from them are its names."""
    room = SandboxedEnvironment(
        loader=FileSystemLoader(TEMPLATES), autoescape=escape, trim_blocks=True, lstrip_blocks=True
    )
    room.filters.update(FILTERS)
    names = {"facts": facts, "headline": facts.get("headline") or headline(facts), **view}
    return written.clean(room.get_template(template).render(names))


def _gain(measure: Measured) -> dict[str, str]:
    r = row(net_of(measure) if measure.get("net") else measure)
    note = f"{r['direction'].capitalize()}; 95 % interval {r['interval']}."
    if "bits" in r["unit"] and measure.get("before"):
        share = 100 * abs(r["raw"] / measure["before"])
        note += f" The base needs {r['before']}: that is {share:.0f} % {'less' if r['raw'] < 0 else 'more'}."
    unit = r["change_unit"] + (", net of the control" if measure.get("net") else "")
    return {"title": "In the field", "value": r["change"], "unit": unit, "note": note, "tone": r["tone"]}


def _kept(rows: list[dict[str, Any]]) -> dict[str, str]:
    single = [r for r in rows if not r["pooled"]]
    counts = {word: sum(r["tone"] == tone for r in single)
              for tone, word in (("good", "kept"), ("open", "not settled"), ("bad", "lost"))}  # fmt: skip
    note = f"Of {len(single)} skills " + ", ".join(f"{n} {word}" for word, n in counts.items() if n) + "."
    pooled = next((r for r in rows if r["pooled"]), None)
    if pooled is None:
        worst = min(rows, key=lambda r: ("bad", "open", "good").index(r["tone"]))
        return {"title": "General skills", "value": worst["plain"], "unit": "the worst of them", "note": note,
                "tone": worst["tone"]}  # fmt: skip
    margin = f", margin {pooled['margin']}" if pooled["margin"] else ""
    return {"title": "General skills", "value": pooled["plain"], "tone": pooled["tone"],
            "unit": f"{pooled['change']} {pooled['change_unit']} together",
            "note": f"95 % interval {pooled['interval']}{margin}." + (f" {note}" if single else "")}  # fmt: skip


def _line(name: str, tone: str, rows: Sequence[Facts], key: str) -> Line:
    points = [(r["step"], r[key]) for r in rows if r.get(key) is not None and math.isfinite(r[key])]
    return Line(name, tone, [x for x, _ in points], [y for _, y in points])
