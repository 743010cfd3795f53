"""Gain is net of the control, retention is judged by margin with Holm, pools weigh skills alike, rows must agree."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metier import stats
from metier.analyse import _sentences, adaptation
from metier.artefacts import Report, Row
from metier.options import MetierError

KEYS = {
    "name", "kind", "unit", "better", "before", "after", "control", "change", "low", "high", "n", "chance", "margin",
    "verdict",
}  # fmt: skip


def how(ask: str, kind: str, title: str, **more: Any) -> Row:
    return {"ask": ask, "kind": kind, "unit": "bits per byte" if ask == "read" else "accuracy", "title": title,
            "better": "lower" if ask == "read" else "higher", "words": "Words.", "margin": None, "chance": None,
            "normalise": "none", "pool": None} | more  # fmt: skip


def row(
    task: str, measure: str, chat: str, i: int, value: float, weight: float = 1.0, cluster: str | None = None
) -> Row:
    name = f"{measure}{i}"
    return {"task": task, "measure": measure, "chat": chat, "id": name, "cluster": cluster or name,
            "value": float(value), "weight": float(weight), "prompt": "Part\nSection\n\n", "gold": f"text {i}",
            "reply": f" {chat} says {i} "}  # fmt: skip


def domain(
    chats: dict[str, float], *, size: int = 100_000, spread: float = 0.02, groups: int = 10, base: float = 1.0
) -> Report:
    """40 chunks of 400 bytes: ``base`` bits per byte plus what a chat adds, and a spread that adds up to nothing."""
    rows = []
    for chat, more in chats.items():
        rng = np.random.default_rng(len(chat))
        of_group, of_row = rng.normal(0, spread, groups), rng.normal(0, spread, 40)
        of_group, of_row = of_group - of_group.mean(), of_row - of_row.mean()
        for i in range(40):
            level = base + more + of_group[i % groups] + of_row[i]
            rows.append(row("domain", "bits", chat, i, 400 * level, 400, f"g{i % groups}"))
        rows += [row("domain", "ask", chat, i, 0.1 * i) for i in range(3)]
    measures = {"bits": how("read", "domain", "held-out documents"), "ask": how("write", "domain", "questions")}
    return Report({"tasks": {"domain": {"measures": measures, "notes": {"bytes": size}}}}, pa.Table.from_pylist(rows))


def general(lost: dict[str, tuple[int, int, int]], prose: float = 0.0) -> Report:
    """``lost``: rows, answers lost and answers won of every skill; half of the answers were right before."""
    measures = {"prose": how("read", "retention", "general prose", margin=0.02)}
    rows = [row("general", "prose", c, i, 500 * (1 + d + 0.001 * (i % 5)), 500)
            for c, d in (("base", 0.0), ("expert", prose)) for i in range(100)]  # fmt: skip
    for name, (n, down, up) in lost.items():
        measures[name] = how("choose", "retention", name, margin=0.03, chance=0.25, pool="skills, pooled")
        for i in range(n):
            before = i < n // 2
            after = (before and i >= down) or (not before and i >= n - up)
            rows += [row("general", name, "base", i, before), row("general", name, "expert", i, after)]
    return Report({"tasks": {"general": {"measures": measures, "notes": {}}}}, pa.Table.from_pylist(rows))


def by_name(report: Report) -> dict[str, Row]:
    return {m["name"]: m for m in report.numbers["measures"]}


def test_the_gain_is_net_of_the_control() -> None:
    report = adaptation.analyse([domain({"base": 0.0, "expert": -0.2, "control": -0.08})])
    m = by_name(report)["held-out documents"]
    assert m.keys() >= KEYS
    assert m["change"] == pytest.approx(m["after"] - m["before"])
    assert m["net"]["change"] == pytest.approx(m["after"] - m["control"])
    assert m["net"]["change"] == pytest.approx(m["change"] - (m["control"] - m["before"]))
    assert m["net"]["low"] < -0.12 < m["net"]["high"] < 0
    assert (m["verdict"], m["n"], m["clusters"], m["main"]) == ("gain", 40, 10, True)


def test_what_the_control_gives_as_well_is_no_gain() -> None:
    m = by_name(adaptation.analyse([domain({"base": 0.0, "expert": -0.2, "control": -0.2})]))["held-out documents"]
    assert m["high"] < 0 < m["net"]["high"]
    assert m["verdict"] == "too small to tell"


def test_a_model_that_did_not_change_gains_nothing_and_keeps_everything() -> None:
    report = adaptation.analyse([general({"facts": (600, 0, 0)}, prose=0.0)])
    assert {m["verdict"] for m in report.numbers["measures"]} == {"non-inferior"}
    assert all(str(m["change"]) == "0.0" for m in report.numbers["measures"])
    facts = by_name(report)["facts"]
    assert facts["low"] < 0 < facts["high"]


def test_without_control_the_plain_change_is_judged_and_it_is_said() -> None:
    report = adaptation.analyse([domain({"base": 0.0, "expert": -0.2})], control=None)
    m = by_name(report)["held-out documents"]
    assert m["verdict"] == "gain" and m["control"] is None and "net" not in m
    assert any("no control" in note for note in report.numbers["notes"])


def test_small_corpora_and_known_text() -> None:
    chats = {"base": 0.0, "expert": -0.2, "control": 0.0}
    small = adaptation.analyse([domain(chats, size=12_000)])
    assert by_name(small)["held-out documents"]["verdict"] == "too small to tell"
    assert "12.0 kB" in small.numbers["headline"]
    known = adaptation.analyse([domain(chats | {"expert": 0.0}, base=0.7), general({})])
    assert by_name(known)["held-out documents"]["verdict"] == "already known"
    assert any("as well as general prose" in note for note in known.numbers["notes"])
    new = adaptation.analyse([domain(chats | {"expert": 0.0}, base=1.4), general({})])
    assert by_name(new)["held-out documents"]["verdict"] == "too small to tell"


def test_skills_are_judged_by_their_margin() -> None:
    lost = {"facts": (800, 10, 8), "sums": (800, 80, 10), "few": (100, 2, 2), "grammar": (600, 20, 10)}
    report = adaptation.analyse([general(lost, prose=0.005)])
    found = by_name(report)
    assert found["facts"]["verdict"] == "non-inferior"
    assert found["sums"]["verdict"] == "inferior"
    assert found["few"]["verdict"] == "too small to tell" and found["few"]["p"] is None
    assert found["grammar"]["verdict"] == "inconclusive"
    assert found["general prose"]["verdict"] == "non-inferior"
    assert found["general prose"]["change"] == pytest.approx(0.005)
    assert by_name(adaptation.analyse([general({}, prose=0.03)]))["general prose"]["verdict"] == "inferior"


def test_a_pool_weighs_its_skills_alike_whatever_their_size() -> None:
    pooled = by_name(adaptation.analyse([general({"large": (1000, 0, 0), "small": (100, 20, 0)})]))["skills, pooled"]
    assert pooled["change"] == pytest.approx((0.0 - 0.2) / 2)
    assert pooled["before"] == pytest.approx(0.5) and pooled["after"] == pytest.approx(0.4)
    assert (pooled["n"], pooled["members"], pooled["chance"]) == (1100, ["large", "small"], 0.25)
    assert pooled["verdict"] == "inferior"


def test_holm_counts_every_judged_measure() -> None:
    report = adaptation.analyse([general({"facts": (800, 10, 8), "sums": (800, 30, 28)}, prose=0.001)])
    judged = [m for m in report.numbers["measures"] if m["p"] is not None]
    assert len(judged) == 4  # prose, two skills and their pool
    d = np.concatenate([-np.ones(10), np.ones(8), np.zeros(782)])
    alone = stats.paired(d, np.ones(800), range(800), binary=True).p_above(-0.03)
    assert alone < by_name(report)["facts"]["p"] <= 4 * alone + 1e-12


def test_examples_and_questions() -> None:
    chats = {"base": 0.0, "expert": -0.01, "control": 0.0, "passages": -0.3}
    report = adaptation.analyse([domain(chats, spread=0.05)], examples=2)
    better, worse = report.numbers["examples"]["better"], report.numbers["examples"]["worse"]
    assert len(better) == len(worse) == 2
    assert better[0]["after"] - better[0]["before"] <= better[1]["after"] - better[1]["before"] < 0
    assert worse[0]["after"] - worse[0]["before"] >= worse[1]["after"] - worse[1]["before"] > 0
    assert better[0]["title"] == "Part › Section" and better[0]["text"].startswith("text ")
    said = {chat: f"{chat} says 1" for chat in ("base", "passages", "expert")}
    assert report.numbers["questions"][1] == {"question": "Part\nSection\n\n", "reference": "text 1", **said}
    assert by_name(report)["questions"]["verdict"] == "too small to tell"
    assert by_name(report)["held-out documents"]["passages"] == pytest.approx(0.7, abs=0.05)


def test_rows_stay_and_numbers_are_json_without_infinities() -> None:
    reports = [domain({"base": 0.0, "expert": -0.1}, groups=1), general({"facts": (600, 3, 3)})]
    report = adaptation.analyse(reports)
    assert report.rows.num_rows == sum(r.rows.num_rows for r in reports)
    json.dumps(report.numbers, allow_nan=False)
    assert by_name(report)["held-out documents"]["low"] is None
    assert "1 group" in report.numbers["headline"]


def test_different_rows_are_refused() -> None:
    report = domain({"base": 0.0, "expert": -0.1})
    short = Report(report.numbers, report.rows.slice(0, report.rows.num_rows - 1))
    with pytest.raises(MetierError, match=r"'base' and 'expert' answered different rows of domain\.ask"):
        adaptation.analyse([short])
    with pytest.raises(MetierError, match="both 'base' and 'tuned'"):
        adaptation.analyse([report], after="tuned")


GAINED = "Your documents taught the model its field: it takes 15% fewer bits to predict unseen ones than "
HARMED = "Training on your documents did harm: it takes 15% more bits to predict unseen ones than "
KNOWN = ("The model already predicted your documents as well as general text, "
         "and training added nothing that can be told")  # fmt: skip
LEVELS = "(50.0% → 49.0% right answers)"


@pytest.mark.parametrize(
    ("field", "skills", "words"),
    [
        ("gain", "non-inferior", f"{GAINED}after as much training on general text; general skills were kept {LEVELS}."),
        ("loss", "inferior", f"{HARMED}after as much training on general text; general skills were lost {LEVELS}."),
        ("already known", "inconclusive", f"{KNOWN}; whether general skills were kept cannot be told {LEVELS}."),
    ],
)  # fmt: skip
def test_the_sentence_on_top(field: str, skills: str, words: str) -> None:
    after = 0.68 if field == "gain" else 0.92
    pooled = {"kind": "retention", "members": ["a"], "verdict": skills, "before": 0.5, "after": 0.49, "name": "pooled"}
    main = {"kind": "domain", "main": True, "verdict": field, "before": 1.0, "control": 0.8, "after": after, "net": {}}
    assert _sentences.headline([main | {"net": {"change": after - 0.8}}, pooled], []) == words


def test_without_control_the_sentence_compares_with_before() -> None:
    main = {"kind": "domain", "main": True, "verdict": "gain", "before": 0.8, "control": None, "after": 0.68}
    assert _sentences.headline([main], []) == f"{GAINED}before."


def test_the_sentence_names_what_got_worse() -> None:
    levels = {"kind": "retention", "before": 0.5, "after": 0.5}
    measures = [levels | {"members": ["a"], "verdict": "non-inferior", "name": "pooled"}]
    measures += [levels | {"verdict": "inferior", "name": name} for name in ("arithmetic", "general prose")]
    assert _sentences.headline(measures, []).endswith("except arithmetic and general prose, which got worse.")
