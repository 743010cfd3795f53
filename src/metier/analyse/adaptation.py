"""What an adaptation gained net of a control and what it kept, with intervals and verdicts.

For reports of `evaluate.compare` over a domain task and a general one, before and after; nothing is asked anew. The
*domain gain* is the change of the specialist less the change of the control (as many steps on general text), on the
same rows; as both changes are from the same base, it is specialist − control. *Retention* is the change of each general
skill against its margin, fixed beforehand in the task, with Holm's step-down over all that are judged; skills of one
pool are also judged together, each with the same weight. Changes are after − before in the measure's unit. Intervals
(95 %) are over clusters: groups of documents, or single questions. `stats.gained` and `stats.kept` hold the rules.

Numbers: headline (one sentence), notes, measures, examples {better, worse}, questions (side by side).

Options:
    before: name of the chat that was trained.
    after: name of what it became.
    control: name of the chat trained on general text; without one the plain change is judged, and a note says so.
    passages: name of the base that looks things up, where there is one.
    examples: held-out passages to show of each kind, better and worse.
Raises: MetierError when a chat was not asked, or two chats were not asked the same rows.
"""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from metier import stats
from metier.analyse import _sentences
from metier.analyse._asked import Asked, gather
from metier.artefacts import Report, Row
from metier.options import MetierError, Natural

LEAST_BYTES = 200  # of a passage worth showing


def analyse(
    reports: list[Report], *, before: str = "base", after: str = "expert", control: str | None = "control",
    passages: str | None = "passages", examples: Natural = 3,
) -> Report:  # fmt: skip
    asked = [a for a in gather(reports) if before in a.rows and after in a.rows]
    if not asked:
        raise MetierError(f"analyse.adaptation: no measure was asked of both '{before}' and '{after}'")
    chats = {"before": before, "after": after, "control": control, "passages": passages}
    domain = [a for a in asked if a.how["kind"] == "domain"]
    general = [a for a in asked if a.how["kind"] == "retention"]
    field_level, prose_level = _level(domain, before), _level(general, before)
    known = field_level is not None and prose_level is not None and field_level <= prose_level
    measures = [_domain(a, chats, known) for a in domain] + _retention(general, chats)
    notes = _sentences.notes(
        measures, corpus_bytes=domain[0].notes["bytes"] if domain else None, before=field_level, prose=prose_level,
        controlled=any("net" in m for m in measures),
    )  # fmt: skip
    return Report({
        "headline": _sentences.headline(measures, notes),
        "notes": notes,
        "measures": measures,
        "examples": _examples(domain, before, after, examples),
        "questions": _questions(domain, before, after, passages),
    }, pa.concat_tables([report.rows for report in reports]))  # fmt: skip


def _level(asked: list[Asked], chat: str) -> float | None:
    """Bits per byte of the first text that was read."""
    return next((a.total(chat) for a in asked if a.how["ask"] == "read"), None)


def _domain(a: Asked, chats: dict[str, Any], known: bool) -> Row:
    plain = a.better(chats["before"], chats["after"])
    found = _facts(a, plain, chats) | {"passages": a.total(chats["passages"]), "main": a.how["ask"] == "read"}
    judged = plain
    if chats["control"] in a.rows:
        judged = a.better(chats["control"], chats["after"])
        found["net"] = _shown(judged, a.sign)
    found["verdict"] = "too small to tell"
    if a.how["ask"] != "write":  # a dozen replies are to be read, not judged by a number
        found["verdict"] = stats.gained(
            judged.low, judged.high, clusters=judged.clusters, corpus_bytes=a.notes["bytes"],
            known=known and a.how["ask"] == "read",
        )  # fmt: skip
    return found


def _retention(asked: list[Asked], chats: dict[str, Any]) -> list[Row]:
    """Those with a margin and enough rows are judged together; the rest is reported as too small to tell."""
    changes = [a.better(chats["before"], chats["after"]) for a in asked]
    judged = [i for i, (a, c) in enumerate(zip(asked, changes, strict=True)) if a.how["margin"] is not None
              and (a.how["ask"] == "read" or c.n >= stats.FEWEST_ANSWERS)]  # fmt: skip
    p = dict(zip(judged, stats.holm([changes[i].p_above(-asked[i].how["margin"]) for i in judged]), strict=True))
    found = []
    for i, (a, change) in enumerate(zip(asked, changes, strict=True)):
        verdict = stats.kept(change.high, p[i], a.how["margin"]) if i in p else "too small to tell"
        found.append(_facts(a, change, chats) | {"p": p.get(i), "verdict": verdict})
    return found


def _facts(a: Asked, change: stats.Change, chats: dict[str, Any]) -> Row:
    return {
        "name": a.how["title"], "kind": a.how["kind"], "unit": a.how["unit"], "better": a.how["better"],
        "before": a.total(chats["before"]), "after": a.total(chats["after"]), "control": a.total(chats["control"]),
        **_shown(change, a.sign), "n": change.n, "clusters": change.clusters, "chance": a.how["chance"],
        "margin": a.how["margin"], "words": a.how["words"], "key": f"{a.task}.{a.name}",
        **({"members": list(a.members)} if a.members else {}),
    }  # fmt: skip


def _shown(change: stats.Change, sign: int) -> Row:
    """In the measure's unit, after − before; an unknown bound is None."""
    low, high = sorted((sign * change.low + 0.0, sign * change.high + 0.0))  # adding 0.0 turns −0.0 into 0.0
    return {
        "change": sign * change.change + 0.0,
        "low": low if math.isfinite(low) else None,
        "high": high if math.isfinite(high) else None,
    }


def _examples(domain: list[Asked], before: str, after: str, count: int) -> dict[str, list[Row]]:
    """The held-out passages that changed most, in bits per byte."""
    changed = []
    for a in (a for a in domain if a.how["ask"] == "read"):
        for i, row in a.rows[before].items():
            now, then = row["value"] / row["weight"], a.rows[after][i]["value"] / row["weight"]
            if row["weight"] >= LEAST_BYTES:
                title = " › ".join(row["prompt"].split("\n")).strip(" ›")
                changed.append({"id": i, "title": title, "text": row["gold"], "before": now, "after": then})
    changed.sort(key=lambda e: (e["after"] - e["before"], e["id"]))
    better = [e for e in changed if e["after"] < e["before"]]
    worse = [e for e in reversed(changed) if e["after"] > e["before"]]
    return {"better": better[:count], "worse": worse[:count]}


def _questions(domain: list[Asked], before: str, after: str, passages: str | None) -> list[Row]:
    """Every question with the replies of all, in the order they were asked."""
    found = []
    for a in (a for a in domain if a.how["ask"] == "write"):
        for i, row in a.rows[before].items():
            replies = {"base": before, "passages": passages, "expert": after}
            said = {k: a.rows[c][i]["reply"].strip() for k, c in replies.items() if c in a.rows}
            found.append({"question": row["prompt"], "reference": row["gold"], **said})
    return found
