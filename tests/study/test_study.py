"""A study computes what is shared once, goes on after a kill, tells what failed, and writes what it found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metier import study
from metier.options import MetierError
from metier.runner import Done
from metier.store import Store
from metier.study import page
from small_study import written

VOID = {"meta", "br", "path", "use", "hr", "img"}


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, model: Path, documents: Path
) -> tuple[Path, dict[str, Any], list[Done]]:
    """The study of two arms, two grid points and two seeds, run once."""
    place = tmp_path_factory.mktemp("ran")
    path = written(place, model, documents)
    steps: list[Done] = []
    facts = study.run(path, store=Store(place / "store"), show=study.Show(finished=steps.append))
    return place, facts, steps


def plain(facts: Any) -> Any:
    """Without what it cost and when."""
    if isinstance(facts, dict):
        dropped = ("cost", "provenance", "own_seconds")
        return {k: plain(v) for k, v in facts.items() if k not in dropped and not str(k).startswith("cost.")}
    return [plain(v) for v in facts] if isinstance(facts, list) else facts


def test_what_cells_share_is_computed_once(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    place, facts, steps = ran
    computed = [s.use for s in steps if not s.cached]
    assert len(facts["cells"]) == 8 and not facts["failed"]
    assert sorted(set(computed)) == ["data.ingest.documents", "evaluate.compare", "model", "split", "tasks.documents",
                                     "train.loop.pretrain"]  # fmt: skip
    counts = {use: computed.count(use) for use in computed}
    assert counts.pop("train.loop.pretrain") == counts.pop("evaluate.compare") == 8
    assert set(counts.values()) == {1}
    assert facts["cost"]["steps"] == len(computed) == len(list((place / "store" / "steps").iterdir()))
    assert facts["cost"]["steps_alone"] == 8 * 6


def test_a_second_run_computes_nothing_and_says_the_same(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    place, facts, _ = ran
    steps: list[Done] = []
    again = study.run(place / "study.yaml", store=Store(place / "store"), show=study.Show(finished=steps.append))
    assert steps and all(s.cached for s in steps)
    assert again | {"provenance": 0} == facts | {"provenance": 0}
    assert json.loads((place / "results.json").read_text())["cells"] == json.loads(json.dumps(facts["cells"]))


def test_more_steps_hold_at_every_point_over_two_seeds(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    _, facts, _ = ran
    claim = facts["claims"][0]
    assert claim["verdict"] == facts["verdict"] == "holds"
    assert [(c["arm"], c["point"], c["seeds"]) for c in claim["comparisons"]] == [
        ("long", "lr=1e-3", 2), ("long", "lr=1e-2", 2)]  # fmt: skip
    for one in claim["comparisons"]:
        assert one["low"] < one["change"] < one["high"] < 0
        at = [c["measures"]["domain.bits_per_byte"]["value"] for c in facts["cells"]
              if f"lr={c['point']['expert.optimizer.lr']}" == one["point"]]  # fmt: skip
        assert one["change"] == pytest.approx((at[1] + at[3] - at[0] - at[2]) / 2)


def test_the_cells_stand_with_numbers_keys_and_cost(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    place, facts, _ = ran
    first, second = facts["cells"][:2]
    assert (first["arm"], first["seed"], second["arm"], second["seed"]) == ("short", 0, "long", 0)
    assert first["keys"]["domain"] == second["keys"]["domain"] and first["keys"]["expert"] != second["keys"]["expert"]
    assert first["cost"]["own_seconds"] < first["cost"]["seconds"] and first["cost"]["tokens_trained"] > 0
    told = (place / "results.json").read_text(encoding="utf-8")
    assert str(place) not in told and os.uname().nodename not in told


def test_killed_at_random_moments_it_ends_with_the_same(tmp_path: Path, model: Path, documents: Path) -> None:
    written(tmp_path, model, documents, {"seeds: [0, 1]": "seeds: [1]"})
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill.py")), str(tmp_path), "2"],
        capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["killed"] >= 1 and row["finished"] > 0, row
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed"))
    assert plain(one) == plain(two)


def test_a_cell_that_fails_is_told_and_the_others_run(tmp_path: Path, model: Path, documents: Path) -> None:
    path = written(tmp_path, model, documents, {
        "long: {expert.steps: 30}": "long: {expert.steps: 30}\n  wild: {expert.steps: 30, expert.optimizer.lr: 1e9}",
        "grid:\n  expert.optimizer.lr: [1e-3, 1e-2]\n": "", "seeds: [0, 1]": "seeds: [0]",
    })  # fmt: skip
    said: list[str] = []
    facts = study.run(path, store=Store(tmp_path / "store"), show=study.Show(cell=said.append))
    (fault,) = facts["failed"]
    assert fault["cell"] == "wild, seed 0" and "diverged at step" in fault["error"]
    assert any("failed: train.loop.pretrain: diverged" in words for words in said)
    claim = facts["claims"][0]
    assert claim["missing"] == ["wild, seed 0 failed"]
    assert [c["verdict"] for c in claim["comparisons"]] == ["holds"] and claim["verdict"] == "holds in part"
    assert "What failed" in (tmp_path / "index.html").read_text()
    assert "diverged at step" in (tmp_path / "README.md").read_text()


def test_an_unknown_metric_stops_it_before_anything_is_trained(tmp_path: Path, model: Path, documents: Path) -> None:
    path = written(tmp_path, model, documents, {"metric: domain.bits_per_byte": "metric: domain.bits_per_bite"})
    steps: list[Done] = []
    with pytest.raises(
        MetierError, match=r"study\.yaml, line 19: the study: has no metric .*did you mean 'domain.bits"
    ):
        study.run(path, store=Store(tmp_path / "store"), show=study.Show(finished=steps.append))
    assert {s.name for s in steps} == {"chunks", "divided", "domain"}


def test_an_unknown_number_stops_it_with_the_first_cell(tmp_path: Path, model: Path, documents: Path) -> None:
    path = written(tmp_path, model, documents, {"metric: domain.bits_per_byte": "metric: report.speed"})
    steps: list[Done] = []
    with pytest.raises(MetierError, match=r"study\.yaml, line 19: the study: has no metric 'report\.speed'"):
        study.run(path, store=Store(tmp_path / "store"), show=study.Show(finished=steps.append))
    assert [s.name for s in steps].count("report") == 1


@pytest.mark.parametrize("metric", ["texts.bits_per_byte", "texts.bits_per_bite"])
def test_measures_that_a_report_makes_are_known_with_the_first_cell(
    tmp_path: Path, model: Path, documents: Path, metric: str
) -> None:
    path = written(tmp_path, model, documents, {
        "{use: evaluate.compare, chats: {expert: $expert}, tasks: [$domain]}":
        "{use: evaluate.perplexity, chats: {expert: $expert}, data: $divided.test}",
        "metric: domain.bits_per_byte": f"metric: {metric}", "seeds: [0, 1]": "seeds: [0]",
        "grid:\n  expert.optimizer.lr: [1e-3, 1e-2]\n": "",
    })  # fmt: skip
    if metric.endswith("bite"):
        with pytest.raises(
            MetierError, match=r"has no metric 'texts\.bits_per_bite'; did you mean 'texts\.bits_per_byte'"
        ):
            study.run(path, store=Store(tmp_path / "store"))
    else:
        claim = study.run(path, store=Store(tmp_path / "store"))["claims"][0]
        assert [c["metric"] for c in claim["comparisons"]] == [metric] and not claim.get("missing")


def test_an_arm_may_take_another_model_and_costs_count(tmp_path: Path, model: Path, documents: Path) -> None:
    """`$reference` override: the untrained arm runs no training, and a cost is a metric over seeds."""
    path = written(tmp_path, model, documents, {
        "  short: {}": "  untrained: {report.chats.expert: $base}", "grid:\n  expert.optimizer.lr: [1e-3, 1e-2]\n": "",
        "minus: short, metric: domain.bits_per_byte, holds: \"< 0\"":
        "minus: untrained, metric: cost.tokens_trained, holds: \"> 0\"",
    })  # fmt: skip
    facts = study.run(path, store=Store(tmp_path / "store"))
    untrained, trained = facts["cells"][:2]
    assert "expert" not in untrained["keys"] and "expert" in trained["keys"]
    (one,) = facts["claims"][0]["comparisons"]
    assert one["change"] == trained["cost"]["tokens_trained"] > 0 and one["seeds"] == 2


def test_somebody_elses_files_are_left_alone(tmp_path: Path, model: Path, documents: Path) -> None:
    path = written(tmp_path, model, documents)
    (tmp_path / "README.md").write_text("years of work")
    with pytest.raises(MetierError, match=r"README.md' was not written by a study; choose another place with --out"):
        study.run(path, store=Store(tmp_path / "store"))
    assert (tmp_path / "README.md").read_text() == "years of work" and not (tmp_path / "store").exists()


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.open, self.links = "", [], []  # type: ignore[var-annotated]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src") and v]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_loads_nothing_and_says_every_verdict(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    place, facts, _ = ran
    source = (place / "index.html").read_text(encoding="utf-8")
    shown = Page(source)
    assert not shown.open
    assert all(link.startswith("#") or link == "results.json" for link in shown.links)
    assert "<script" not in source and page.html(facts) == source
    for row in study.table(facts)[1:]:
        for text in row[1:]:
            assert text.replace(" bits per byte", "") in shown.text, text
    assert facts["claims"][0]["says"] in shown.text


EVIL = "<script>alert(1)</script>\"'|`*"


def test_words_of_the_study_cannot_become_markup(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    _, facts, _ = ran
    claims = [c | {"says": EVIL, "missing": [EVIL]} for c in facts["claims"]]
    evil = facts | {"title": EVIL, "about": EVIL, "claims": claims, "failed": [{"cell": EVIL, "error": EVIL}]}
    assert "<script" not in page.html(evil) and Page(page.html(evil)).text.count("<script>alert(1)</script>") >= 5
    assert not re.search(r"(?<!\\)<script", page.readme(evil))


def test_every_file_comes_whole_and_none_is_left_over(ran: tuple[Path, dict[str, Any], list[Done]]) -> None:
    place, _, _ = ran
    names = {p.name for p in place.iterdir()}
    assert names == {"study.yaml", "store", "README.md", "results.json", "index.html"}  # one measure: no picture
    assert (place / "README.md").read_text().startswith(page.MARK)


PARETO = {
    "measures": {
        "g.prose": {"title": "prose", "unit": "bits per byte", "better": "lower", "kind": "retention", "margin": 0.02},
        "d.gaps": {"title": "gaps", "unit": "accuracy", "better": "higher", "kind": "domain", "margin": None},
    },
    "reference": "base",
    "grid": {},
}  # fmt: skip


def drawn(changes: dict[str, tuple[float, float]], front: list[int]) -> dict[str, Any]:
    arms = [
        {"arm": name, "point": "", "own_seconds": 1.0 + i,
         "values": {"g.prose": {"level": 1, "change": x, "low": x - 0.01, "high": x + 0.01},
                    "d.gaps": {"level": 1, "change": y, "low": y - 0.02, "high": y + 0.02}}}
        for i, (name, (x, y)) in enumerate(changes.items())
    ]  # fmt: skip
    pareto = {"x": "g.prose", "y": "d.gaps", "front": front, "shown": list(range(len(arms)))}
    return PARETO | {"arms": arms, "pareto": pareto}


def test_the_picture_tells_every_arm_and_is_the_same_again() -> None:
    facts = drawn({"base": (0.0, 0.0), "good": (-0.03, 0.1), "bad": (0.05, -0.01)}, [1])
    svg = page.picture(facts)
    assert svg == page.picture(facts) and svg.count("<svg") == 1
    assert "good: −0.030 and +10.0" in svg and ">bad<" in svg and "var(--good)" in svg
    alone = page.standing_alone(svg)
    assert "--good:#0b62a8" in alone and "prefers-color-scheme:dark" in alone and "--good:#74b9f2" in alone


def test_runs_of_an_arm_over_a_grid_of_numbers_are_joined_and_named_once() -> None:
    facts = drawn({"base": (0.0, 0.0), "short": (-0.01, 0.1), "long": (-0.03, 0.2)}, [1])
    apart = page.picture(facts)
    for arm in facts["arms"][1:]:
        arm["point"], arm["arm"] = f"steps={arm['arm']}", "trained"
    joined = page.picture(facts | {"grid": {"expert.steps": [1, 2]}})
    assert joined.count(">trained<") == 1 and joined.count("<path") == apart.count("<path") - 1  # less 2 bars
    assert "trained, steps=short: −0.010" in joined  # what a screen reader says is whole
    assert (
        page.is_road({"a": ["1e-3", 0.01]})
        and not page.is_road({"a": ["x", "y"]})
        and not page.is_road({"a": [1, 2], "b": [1, 2]})
    )


def test_names_in_the_picture_do_not_lie_on_each_other() -> None:
    from metier.study import front

    spots = [front.Spot(f"an arm with number {i}", 0.01 * i, 0.01 * (i % 2), None, None, "open", 0.5) for i in range(5)]
    placed = front._labels(spots, lambda x, y: (200 + 1000 * x, 150 + 1000 * y), (578, 368))
    boxes = []
    for spot, ((dx, dy), side) in zip(spots, placed, strict=True):
        x, y = 200 + 1000 * spot.x + dx, 150 + 1000 * spot.y + dy
        long = front.LETTER * len(spot.name)
        boxes.append((x if side == "left" else x - long, y - 7, x + long if side == "left" else x, y + 7))
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if front._common(a, b) > 1]


def test_a_name_stands_nearest_to_its_own_spot() -> None:
    from metier.study import front

    def spot(y: float) -> front.Spot:
        return front.Spot("an arm with a name", 540.0, y, (500.0, 580.0), (y - 20, y + 20), "open", 0.9)

    spots = [spot(250.0), spot(228.0)]
    placed = front._labels(spots, lambda x, y: (x, y), (578, 368))
    for own, other, ((dx, dy), side) in zip(spots, spots[::-1], placed, strict=True):
        long = front.LETTER * len(own.name)
        left = own.x + dx - (0 if side == "left" else long)
        box = (left, own.y + dy - 8, left + long, own.y + dy + 8)
        assert front._gap(box, (own.x, own.y)) < front._gap(box, (other.x, other.y))


def test_a_picture_of_one_point_of_the_grid_names_arms_alone() -> None:
    facts = drawn({"base": (0.0, 0.0), "good": (-0.03, 0.1)}, [1])
    for arm in facts["arms"]:
        arm["point"] = "kind=far"
    assert ">good<" in page.picture(facts)
    facts["arms"][0]["point"] = "kind=near"
    assert ">good, kind=far<" in page.picture(facts)


def test_a_calibration_error_is_named_and_less_of_it_is_better() -> None:
    from metier.study import results

    report = results._number("report.calibration.expert.toy.label.ece", 0.1, "arm", ("", ""))
    how = report.numbers["tasks"]["report"]["measures"]["calibration.expert.toy.label.ece"]
    assert (how["title"], how["better"]) == ("calibration error", "lower")
    other = results._number("report.verdicts", 3, "arm", ("", "")).numbers["tasks"]["report"]["measures"]["verdicts"]
    assert (other["title"], other["better"]) == ("report.verdicts", "higher")


def test_changes_of_an_arm_are_told_as_they_are_read() -> None:
    assert page._words({"use": "lora", "rank": 8, "targets": ["q", "v"]}) == "lora (rank 8, targets q, v)"
    assert page._words([{"use": "l2_start"}]) == "l2_start" and page._words(1e-3) == "0.001"
