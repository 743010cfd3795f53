"""The page, the card and the table, on a fixture of invented numbers with gains, losses and open verdicts."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from metier import figures, measures, report
from metier.text import written

VOID = {"meta", "br", "path", "use", "hr", "img", "link", "input"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>|`</td>\n# not a heading"
BASE = {"name": "m", "kind": "retention", "unit": "accuracy", "better": "higher", "before": 0.5, "after": 0.51,
        "control": None, "change": 0.01, "low": -0.01, "high": 0.03, "n": 500, "chance": 0.25, "margin": 0.03,
        "verdict": "non-inferior"}  # fmt: skip


class Page(HTMLParser):
    """Tags in order, attributes, text; fails on tags that do not close."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    path = Path(__file__).parent / "data" / "report_fixture.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def source(facts: dict[str, Any]) -> str:
    return report.html(facts)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def poisoned(value: Any) -> Any:
    """Every text replaced by markup, but for the words the page decides by."""
    if isinstance(value, dict):
        fixed = {"kind", "unit", "better", "verdict", "how", "by_step"}
        return {k: v if k in fixed else poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return EVIL if isinstance(value, str) else value


def test_the_page_loads_nothing_and_runs_nothing(page: Page, source: str) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert value == "report.json" or (value or "").startswith("#"), (tag, value)
            assert name == "xmlns" or "//" not in (value or ""), (tag, name, value)
    assert not re.search(r"@import|@font-face|url\(\s*['\"]?(?!#)", source)
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'") and "script" not in policy


def test_untrusted_text_stays_text(facts: dict[str, Any], page: Page) -> None:
    evil = poisoned(facts)
    evil["data"]["dropped"] = {EVIL: 478}
    evil["cost"]["by_step"] = {EVIL: 3.0}
    evil["steps"][0]["options"] = {EVIL: EVIL, "map": {EVIL: EVIL}}
    poisonous = Page(report.html(evil))
    assert not {"script", "img"} & {tag for tag, _ in poisonous.tags}
    assert not [a for _, a in poisonous.tags if any(name.startswith("on") for name in a)]
    assert poisonous.text.count("<script>alert(1)</script>") > 60
    sections = [[tag for tag, _ in p.tags].count("section") for p in (page, poisonous)]
    assert sections == [10, 10]


def test_texts_no_utf8_file_may_hold_are_mended(facts: dict[str, Any]) -> None:
    broken = copy.deepcopy(facts)
    broken["examples"]["better"][0]["text"] = "a\ud800b\x00c\x1b[31md"
    source = report.html(broken)
    assert "a\ufffdb\ufffdc\ufffd[31md" in source
    source.encode("utf-8")


def test_headings_tables_and_figures_can_be_heard(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["table"] == tags["caption"] == tags["thead"] > 5
    assert all("scope" in a for tag, a in page.tags if tag == "th")
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (
                attributes.get("role") == "img" and attributes["aria-label"]
            )
    assert ("html", {"lang": "en"}) in page.tags


def test_ids_stand_once_and_links_arrive(page: Page) -> None:
    ids = Counter(a["id"] for _, a in page.tags if a.get("id"))
    # The same drawing may stand twice; then its parts carry the same id and are the same.
    assert all(n == 1 for i, n in ids.items() if i and not re.match(r"f[0-9a-f]{10}-", i)), ids
    targets = {(a.get("href") or "")[1:] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    assert targets and targets <= set(ids)


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_has_contrast_in_every_theme(source: str, theme: int) -> None:
    block = re.findall(r":root\{([^}]*)\}", source)[theme]
    colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", block))
    assert set(figures.NAMES) <= set(colours)
    for name in ("ink", "soft", "good", "bad", "open", "control", "passages"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, (name, colours[name])
    assert contrast(colours["base"], colours["paper"]) >= 3  # never text, only marks and bars


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rgb or #rrggbb colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_measure_stands_with_interval_and_verdict(facts: dict[str, Any], page: Page) -> None:
    for measure in facts["measures"]:
        r = measures.row(measure)
        for text in (r["name"], r["before"], r["after"], r["change"], r["interval"], r["verdict"]):
            assert text in page.text, (measure["name"], text)
    assert "Bits per byte is not question answering." in page.text
    assert facts["headline"] in page.text
    for chosen in (*facts["examples"]["better"], *facts["examples"]["worse"]):
        assert chosen["text"] in page.text


def test_key_figures_are_net_of_the_control_and_pooled(facts: dict[str, Any]) -> None:
    gain, kept, time = report.key_figures(facts)
    assert gain["value"] == "−0.213" and gain["unit"] == "bits per byte, net of the control"
    assert "−0.241 to −0.187" in gain["note"] and "21 % less" in gain["note"]
    assert kept["value"] == "kept" and kept["tone"] == "good"
    assert kept["note"] == "95 % interval −1.4 to +0.4, margin 3. Of 7 skills 4 kept, 2 not settled, 1 lost."
    assert time["value"] == "9 min 40 s"


def test_without_a_pooled_measure_the_worst_skill_speaks() -> None:
    two = [BASE, BASE | {"name": "other", "verdict": "inferior"}]
    (kept,) = report.key_figures({"measures": two})
    assert (kept["value"], kept["tone"]) == ("lost", "bad")


def test_same_facts_same_bytes(facts: dict[str, Any], source: str) -> None:
    assert report.html(facts) == source


@pytest.mark.parametrize(
    ("verdict", "low", "high", "better", "tone"),
    [
        ("non-inferior", -0.02, -0.01, "higher", "good"),
        ("inferior", -0.2, -0.1, "higher", "bad"),
        ("inconclusive", -0.2, 0.1, "higher", "open"),
        ("too small to tell", 0.1, 0.2, "higher", "open"),
        (None, 0.1, 0.2, "higher", "good"),
        (None, 0.1, 0.2, "lower", "bad"),
        (None, -0.2, -0.1, "lower", "good"),
        (None, -0.2, 0.0, "lower", "open"),
        (None, None, None, "lower", "open"),
    ],
)
def test_tone(verdict: str | None, low: float | None, high: float | None, better: str, tone: str) -> None:
    assert measures.tone_of(BASE | {"verdict": verdict, "low": low, "high": high, "better": better}) == tone


def test_better_is_right_and_the_margin_lies_on_the_side_of_loss() -> None:
    lower = figures.Span.around([-0.2, 0.02], better="lower")
    assert lower.left == pytest.approx(0.0376) and lower.right == pytest.approx(-0.2176)
    higher = figures.Span.around([-0.2, 0.02], better="higher")
    assert higher == lower[::-1]
    assert lower.place(lower.left) == pytest.approx(3.0) and lower.place(lower.right) == pytest.approx(97.0)
    for better, worse in (("higher", "higher"), ("lower", "lower")):
        (panel,) = report.panels([BASE | {"better": better}])
        assert panel["rows"][0]["edge"] < panel["zero"], worse


def test_an_interval_is_drawn_where_it_lies() -> None:
    strip = figures.interval(0.5, 0.25, 0.75, figures.Span(0.0, 1.0), "good")
    (ends,) = re.findall(r"M ([\d.]+) [\d.]+ L ([\d.]+) [\d.]+ \" style=\"fill: none; stroke: var\(--good\)", strip)
    width = 0.94 * figures.WIDTH
    assert [float(x) for x in ends] == pytest.approx([0.03 * figures.WIDTH + width * share for share in (0.25, 0.75)])
    assert re.search(r'<use href="#[^"]+" x="170"', strip)
    assert "<style" not in strip and "#0102" not in strip


def test_running_mean_is_unbiased_at_the_start() -> None:
    assert figures._running_mean([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert figures._running_mean([1.0, 0.0], keep=0.5) == pytest.approx([1.0, 1 / 3])


def test_funnel_is_contiguous_and_adds_up(facts: dict[str, Any]) -> None:
    read, *dropped, kept = report.funnel(facts["data"])
    assert sum(s["n"] for s in dropped) + kept["n"] == read["n"] == 3184
    assert dropped[0]["start"] + dropped[0]["wide"] == pytest.approx(100)
    for before, after in itertools.pairwise(dropped):
        assert after["start"] + after["wide"] == pytest.approx(before["start"])
    assert dropped[-1]["start"] == pytest.approx(kept["wide"])


def test_costs_add_up_and_short_steps_are_one_row(facts: dict[str, Any]) -> None:
    cost = report.cost_by_step(facts)
    assert cost["total"] == pytest.approx(sum(s["seconds"] for s in facts["steps"]))
    assert sum(r["seconds"] for r in cost["steps"]) == pytest.approx(cost["total"])
    assert max(r["wide"] for r in cost["steps"]) == 100
    assert cost["steps"][-1]["name"] == "10 short steps"


def test_curves_leave_out_what_is_not_finite() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0}]
    (plot,) = report.training_curves({"expert": rows, "control": [], "dev": []})
    assert 'aria-label="Loss on what it reads: specialist from 2 to 1 in 3 steps"' in plot["plot"]
    assert "nan" not in plot["plot"].lower()


def test_facts_may_be_scarce() -> None:
    needed = ("name", "kind", "unit", "better", "before", "after", "control", "change", "low", "high", "n", "chance",
              "margin", "verdict")  # fmt: skip
    measure = {k: BASE[k] for k in needed}
    scarce = {
        "metier": "1",
        "model": {"name": "m"},
        "measures": [measure],
        "data": {},
        "steps": [],
        "cost": {"seconds": 1},
    }
    assert "m" in Page(report.html(scarce)).text and report.card(scarce)
    blank = dict.fromkeys(("before", "after", "change", "low", "high", "n", "chance", "margin", "verdict"))
    unknown = {"model": {"name": "m"}, "measures": [BASE | blank, BASE | blank | {"kind": "domain"}]}
    Page(report.html(unknown))
    assert report.table(unknown)[1] == ("m", "–", "–", "– points", "not known", "inconclusive")
    empty = Page(report.html({"measures": []}))
    assert "Nothing was measured." in empty.text


def test_table_rows(facts: dict[str, Any]) -> None:
    rows = report.table(facts)
    assert rows[0] == ("measure", "before", "after", "change", "interval", "verdict")
    assert rows[1] == ("held-out documents", "1.031", "0.806", "−0.225 bits per byte", "−0.252 to −0.199", "gain")
    assert rows[2] == ("  net of the control", "", "", "−0.213 bits per byte", "−0.241 to −0.187", "gain")
    assert ("arithmetic", "41.6", "34.4", "−7.2 points", "−9.8 to −4.6", "inferior") in rows
    assert len({len(r) for r in rows}) == 1 and len(rows) == 1 + 10 + 2


def test_card_front_matter_and_table_hold_against_any_text(facts: dict[str, Any]) -> None:
    _, front, body = report.card(facts).split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert told["library_name"] == "peft" and told["license"] == "apache-2.0"
    assert "| −7.2 (−9.8 to −4.6) | 3 | inferior |" in body and "PeftModel.from_pretrained(base" in body
    evil = report.card(poisoned(facts))
    assert yaml.safe_load(evil.split("---\n", 2)[1])["base_model"] == EVIL
    outside = re.sub(r"```.*?```", "", evil.split("---\n", 2)[2], flags=re.S)
    assert not re.search(r"(?<!\\)<script", outside) and "\n# not" not in outside
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in outside.splitlines() if line.startswith("|")]
    assert len(columns) == 12 and set(columns) == {9}


def test_card_of_a_merged_model_loads_with_transformers_alone(facts: dict[str, Any]) -> None:
    merged = report.card(facts | {"merge": {"token_agreement": 1.0}, "gguf": "expert.gguf"})
    assert "peft" not in merged and "expert.gguf" in merged and 'from_pretrained("expert")' in merged


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (written.seconds(0.04), "0.0 s"),
        (written.seconds(59.6), "1 min 0 s"),
        (written.seconds(7384), "2 h 3 min"),
        (written.size(1023), "1023 bytes"),
        (written.size(1536 * 1024), "1.5 MiB"),
        (written.size(6 * 1024**3), "6.0 GiB"),
        (written.count(12345), "12\u202f345"),
        (written.count(4_884_480), "4.88 million"),
        (written.percent(0.0031, 2), "0.31 %"),
        (written.cell("a|b\n<c>"), "a\\|b \\<c\\>"),
        (measures.signed(-0.00001, measures.Form(1, 3, "", "")), "0.000"),
        (measures.signed(-0.0214, measures.Form(100, 1, "%", "points")), "−2.1"),
    ],
)
def test_written(text: str, expected: str) -> None:
    assert text == expected


def test_code_and_tables_are_told_from_prose() -> None:
    assert written.looks_like_code("so:\n\n    x = 1") and written.looks_like_code("+--+\n| a | b |")
    assert not written.looks_like_code("Prose - with + signs | and bars.\n  - a list")


def test_remarks_tell_how_text_was_held_out_and_repeat_every_note() -> None:
    facts = {"data": {"how": "groups", "overlap": {"test": 0.0002, "dealt_at_random": 0.36}, "notes": ["a"]},
             "plan": {"notes": ["b"]}, "notes": ["c"]}  # fmt: skip
    first, *rest = report.remarks(facts)
    assert (
        first.startswith("held out in groups of documents that share text: 0.02% of the test's")
        and "36% would" in first
    )
    assert rest == ["a", "b", "c"] and report.remarks({}) == []
