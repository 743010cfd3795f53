"""The results of a study as a page, a README, a picture and the rows of a table. Results in, text out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from metier import figures, report
from metier.analyse._condition import parse
from metier.disk import unwritable, writing
from metier.figures import Span
from metier.measures import Form, form, level, signed
from metier.options import MetierError
from metier.study import front
from metier.study.front import Axis, Spot

Facts = Mapping[str, Any]
MARK = "<!-- written by metier study -->"
FILES = ("plot.svg", "index.html", "results.json", "README.md")
TONES = {"holds": "good", "does not hold": "bad", "does not hold at this size": "bad"}
NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
COLUMNS = 4  # measures in the table of arms


def refuse(place: Path) -> None:
    """Raises MetierError when nothing can be written there, or files of the names to be written are somebody else's."""
    if (reason := unwritable(place / FILES[0])) is not None:
        raise MetierError(f"study: the place is '{place}', and {reason}; choose another place with --out")
    there = [name for name in FILES if (place / name).exists()]
    readme = place / "README.md"
    if there and not (readme.exists() and readme.read_text(encoding="utf-8", errors="replace").startswith(MARK)):
        raise MetierError(f"study: '{place / there[-1]}' was not written by a study; choose another place with --out")


def write(place: Path, facts: Facts) -> None:
    """Each file is written beside its place and renamed, README.md (the mark) first of all."""
    drawn = picture(facts)
    made = {"README.md": readme(facts), "results.json": _json(facts), "index.html": html(facts)}
    if drawn:
        made["plot.svg"] = standing_alone(drawn)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            with (place / f"{name}.tmp").open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            (place / f"{name}.tmp").replace(place / name)
        if not drawn:
            (place / "plot.svg").unlink(missing_ok=True)


def html(facts: Facts) -> str:
    """One self-contained page: no network, no script; light, dark and print."""
    return report.render("study.html.j2", _headed(facts), _view(facts) | {"plot": Markup(picture(facts))}, escape=True)


def readme(facts: Facts) -> str:
    return MARK + "\n" + report.render("study.md.j2", _headed(facts), _view(facts), escape=False)


def table(facts: Facts) -> list[tuple[str, ...]]:
    """A header and a row per claim; one with several comparisons has a row for each of them below it."""
    rows: list[tuple[str, ...]] = [("claim", "difference", "interval", "n", "verdict")]
    for claim in (_claim(facts, c) for c in facts["claims"]):
        cells = [(r["name"], r["change"], r["interval"], str(r["n"]), r["verdict"]) for r in claim["rows"]]
        if len(cells) == 1:
            rows.append((claim["says"], *cells[0][1:4], claim["verdict"]))
        else:
            rows += [(claim["says"], "", "", "", claim["verdict"]), *((f"  {name}", *rest) for name, *rest in cells)]
        rows += [(f"  missing: {missing}", "", "", "", "") for missing in claim["missing"]]
    return rows


def picture(facts: Facts) -> str:
    """The Pareto picture, or nothing where no two measures were taken."""
    pareto = facts["pareto"]
    if not pareto or not pareto["shown"]:
        return ""
    x, y = (_how(facts, pareto[k]) for k in ("x", "y"))
    arms = [facts["arms"][i] for i in pareto["shown"]]
    dearest = max((a["own_seconds"] or 0.0 for a in arms), default=0.0)
    road = is_road(facts["grid"])
    last = {arm["arm"]: n for n, arm in enumerate(arms)}
    before: dict[str, int] = {}
    spots = []
    for n, (i, arm) in enumerate(zip(pareto["shown"], arms, strict=True)):
        at = [arm["values"][pareto[k]] for k in ("x", "y")]
        ends = [None if v["low"] is None or v["low"] == v["high"] else (v["low"], v["high"]) for v in at]
        tone = "base" if arm["arm"] == facts["reference"] else "good" if i in pareto["front"] else "open"
        share = (arm["own_seconds"] or 0.0) / dearest if dearest else None
        passed = road and n != last[arm["arm"]]
        name = "" if passed else arm["arm"] if road or _point(facts) else _name(arm)
        across, along = (None, None) if passed else ends
        spots.append(Spot(name, at[0]["change"], at[1]["change"], across, along, tone, share, before.get(arm["arm"])))
        if road:
            before[arm["arm"]] = n
    x_axis = _axis(x, [e for s in spots for e in (s.x, *(s.across or ()))])
    y_axis = _axis(y, [e for s in spots for e in (s.y, *(s.along or ()))])
    best = [spots[pareto["shown"].index(i)] for i in pareto["front"]]
    told = zip(arms, spots, strict=True)
    words = "; ".join(f"{_name(arm)}: {signed(s.x, form(x))} and {signed(s.y, form(y))}" for arm, s in told)
    label = f"Change of {x['title']} (across) and {y['title']} (up) from {facts['reference']}. {words}."
    return front.picture(spots, best, x_axis, y_axis, label)


def _point(facts: Facts) -> str:
    """The point of the grid that the whole picture is about, if it is one."""
    points = {facts["arms"][i]["point"] for i in facts["pareto"]["shown"]}
    return points.pop() if len(points) == 1 else ""


def is_road(grid: Facts) -> bool:
    """Whether the points of the grid lie on one line: one option, and numbers for it (1e-3 is text in YAML)."""
    values = next(iter(grid.values())) if len(grid) == 1 else []
    return len(values) > 1 and all(NUMBER.fullmatch(json.dumps(v).strip('"')) for v in values)


def standing_alone(drawn: str) -> str:
    """The picture as a file: with the page's colours, light and dark."""
    light, dark = re.findall(r":root\{(--paper[^}]*)\}", (report.TEMPLATES / "style.css").read_text("utf-8"))[:2]
    light = light.partition("\n")[0]  # the type faces follow
    style = (
        f"<style>svg{{{light};font-family:system-ui,sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    )
    return re.sub(r"^(<svg [^>]*>)", lambda m: m[1] + style, drawn) + "\n"


def _headed(facts: Facts) -> Facts:
    return {**facts, "headline": facts["title"]}


def _view(facts: Facts) -> dict[str, Any]:
    return {
        "claims": [_claim(facts, c) for c in facts["claims"]],
        "counts": _counts([c["verdict"] for c in facts["claims"]]),
        "columns": [(m, _how(facts, m)) for m in _columns(facts)],
        "arms": [_arm(facts, i) for i in range(len(facts["arms"]))],
        "costs": _costs(facts),
        "runs": len(facts["cells"]),
        "road": next(iter(facts["grid"])) if is_road(facts["grid"]) else None,
        "pareto": facts["pareto"]
        and {k: _how(facts, facts["pareto"][k])["title"] for k in ("x", "y")} | {"point": _point(facts)},
    }


def _counts(verdicts: Sequence[str]) -> list[tuple[str, int]]:
    words = ("holds", "holds in part", "does not hold at this size", "not testable here")
    return [(word, verdicts.count(word)) for word in words if word in verdicts]


def _claim(facts: Facts, claim: Facts) -> dict[str, Any]:
    """A claim with a row for each comparison; those of one measure share an axis, what is claimed is shaded."""
    holds = parse(claim["holds"]) if claim.get("holds") else None
    rows, panels = [], []
    by_metric: dict[str, list[Facts]] = {}
    for c in claim["comparisons"]:
        by_metric.setdefault(c["metric"], []).append(c)
    for metric, comparisons in by_metric.items():
        how = _how(facts, metric)
        f, bound = form(how), holds.bound if holds else 0.0
        ends = [c[k] for c in comparisons for k in ("low", "high", "change") if c[k] is not None]
        span = Span.around([*ends, bound], better=how["better"])
        drawn = []
        for c in comparisons:
            tone = TONES.get(c["verdict"], "open")
            strip = Markup(figures.interval(c["change"], c["low"], c["high"], span, tone))
            name = f"{c['arm']} − {c['minus']}" + (f", {c['point']}" if c["point"] else "")
            number = signed(c["change"], f)
            drawn.append({
                **c, "strip": strip, "tone": tone, "number": number, "change": f"{number} {f.change}".strip(),
                "name": f"{name}: {how['title']}" if len(by_metric) > 1 else name, "interval": _interval(c, f),
                "p": c["p"] if len(claim["comparisons"]) > 1 else None,
            })  # fmt: skip
        edge = span.place(bound)
        right = holds is not None and (holds.sign[0] == ">") == (span.right > span.left)
        panels.append({
            "rows": drawn, "how": how, "unit": f.change, "zero": span.place(0.0), "edge": edge,
            "band": (edge, 100 - edge) if right else (0.0, edge), "axis": Markup(figures.axis(span, f.scale)),
        })  # fmt: skip
        rows += drawn
    tone = TONES.get(claim["verdict"], "open")
    words = claim.get("holds", "").replace(">=", "≥").replace("<=", "≤").replace("-", "−")
    return {**claim, "rows": rows, "panels": panels, "tone": tone, "claimed": words}


def _columns(facts: Facts) -> list[str]:
    """Measures worth a column: what claims and picture name, then the field, pools, and other skills."""
    known = facts["measures"]
    named = [m for c in facts["claims"] for m in _listed(c["options"].get("metric")) if not m.startswith("cost.")]
    named += [facts["pareto"][k] for k in ("x", "y")] if facts["pareto"] else []
    rest = sorted(
        (m for m in known if not m.startswith("cost.")),
        key=lambda m: (known[m]["kind"] != "domain", "members" not in known[m]),
    )
    return [m for m in dict.fromkeys([*named, *rest]) if m in known][:COLUMNS]


def _arm(facts: Facts, i: int) -> dict[str, Any]:
    arm = facts["arms"][i]
    cells = []
    for metric in _columns(facts):
        value, f = arm["values"].get(metric), form(_how(facts, metric))
        shown = {"level": "–", "change": "", "interval": ""}
        if value:
            shown["level"] = level(value["level"], f)
            if value["change"] is not None and arm["arm"] != facts["reference"]:
                shown |= {"change": signed(value["change"], f), "interval": _interval(value, f)}
        cells.append(shown)
    on_front = bool(facts["pareto"]) and i in facts["pareto"]["front"]
    changes = "; ".join(f"{path}: {_words(v)}" for path, v in facts["changes"][arm["arm"]].items())
    tone = "base" if arm["arm"] == facts["reference"] else "good" if on_front else "open"
    return {**arm, "cells": cells, "front": on_front, "tone": tone, "changes": changes}


def _costs(facts: Facts) -> list[dict[str, Any]]:
    methods = sorted(facts["cost"]["by_method"].items(), key=lambda item: -item[1]["seconds"])
    longest = max((c["seconds"] for _, c in methods), default=0.0) or 1.0
    return [{"use": use, **c, "wide": 100 * c["seconds"] / longest} for use, c in methods]


def _axis(how: Facts, values: Sequence[float]) -> Axis:
    f, span = form(how), Span.around(values, better=how["better"])
    worse = 1 if how["better"] == "lower" else -1
    margin = None if how["margin"] is None else worse * how["margin"]
    low, high = sorted(span)
    return Axis(
        f"{how['title']}, {f.change}".strip(", "), span, f.scale, margin if margin and low < margin < high else None
    )


def _how(facts: Facts, metric: str) -> dict[str, Any]:
    plain = {"title": metric, "unit": "", "better": "higher", "kind": "domain", "margin": None, "words": ""}
    return plain | facts["measures"].get(metric, {})


def _interval(value: Facts, f: Form) -> str:
    if value["low"] is None or value["high"] is None:
        return "not known"
    return f"{signed(value['low'], f)} to {signed(value['high'], f)}"


def _name(arm: Facts) -> str:
    return f"{arm['arm']}, {arm['point']}" if arm["point"] else str(arm["arm"])


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and "use" in value:
        options = ", ".join(f"{name} {_words(inner)}" for name, inner in value.items() if name != "use")
        return f"{value['use']} ({options})" if options else str(value["use"])
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _json(facts: Facts) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"
