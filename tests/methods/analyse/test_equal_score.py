"""Curves are read where every arm has gained the same, per seed, and compared there on the same rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from measures import TASKS
from metier.analyse import equal_score
from metier.artefacts import Report
from metier.options import MetierError

POINTS = ("steps=4", "steps=8")
# bits of the documents fall (better), share of known facts falls (worse): (gain, loss) at each point
FAST = {"steps=4": (1.0, 0.30), "steps=8": (2.0, 0.80)}
SLOW = {"steps=4": (0.5, 0.05), "steps=8": (1.5, 0.30)}


def cells(curves: dict[str, dict[str, tuple[float, float]]], seeds: int = 3) -> list[Report]:
    found = []
    for seed in range(seeds):
        for point in POINTS:
            rows: list[dict[str, Any]] = []
            for arm, curve in {"start": dict.fromkeys(POINTS, (0.0, 0.0)), **curves}.items():
                gain, loss = curve[point]
                for i in range(20):
                    base = {
                        "task": "t",
                        "chat": arm,
                        "cluster": str(i),
                        "weight": 1.0,
                        "point": point,
                        "seed": str(seed),
                    }
                    rows.append(base | {"measure": "bits", "id": f"b{i}", "value": 5.0 + i % 3 - gain})
                    rows.append(base | {"measure": "facts", "id": f"f{i}", "value": 0.9 - loss + 0.01 * (i % 4)})
            found.append(Report({"tasks": TASKS}, pa.Table.from_pylist(rows)))
    return found


def judged(reports: list[Report], **options: Any) -> dict[str, Any]:
    given = {"metric": "t.facts", "equal": "t.bits", "start": "start", "minus": "fast", "holds": "> 0"} | options
    return equal_score.analyse(reports, **given).numbers


def test_where_a_curve_crosses() -> None:
    assert equal_score.crossing([0, 1, 2], 1.5) == (1, 0.5)
    assert equal_score.crossing([0, 0.5, 1.5], 1.5) == (1, 1.0)
    assert equal_score.crossing([0, 2, 1, 3], 1.5) == (0, 0.75)  # the first time
    with pytest.raises(ValueError, match="reaches"):
        equal_score.crossing([0, 1], 2)


def test_arms_are_compared_where_both_have_gained_the_same() -> None:
    """At 1.5 bits the fast arm stands half-way between its runs, 0.55 lost, the slow one at its end, 0.30 lost."""
    found = judged(cells({"fast": FAST, "slow": SLOW}))
    (one,) = found["comparisons"]
    assert one["level"] == pytest.approx(1.5)
    assert (one["arm"], one["minus"], one["seeds"], one["verdict"]) == ("slow", "fast", 3, "holds")
    assert one["change"] == pytest.approx(0.25) and one["levels"] == pytest.approx([0.915 - 0.55, 0.915 - 0.30])
    assert one["point"] == "t.bits +1.5"


def test_a_pair_is_read_at_its_own_level() -> None:
    """The slowest gains 0.6 and would draw the level of all down; slow against fast is still read at 1.5."""
    slowest = {"steps=4": (0.2, 0.0), "steps=8": (0.6, 0.0)}
    reports = cells({"fast": FAST, "slow": SLOW, "slowest": slowest})
    apart = {c["arm"]: c for c in judged(reports, level="pair")["comparisons"]}
    assert {arm: c["level"] for arm, c in apart.items()} == pytest.approx({"slow": 1.5, "slowest": 0.6})
    assert apart["slow"]["change"] == pytest.approx(0.25) and apart["slowest"]["change"] == pytest.approx(0.18)
    assert [c["level"] for c in judged(reports)["comparisons"]] == pytest.approx([0.6, 0.6])


def test_against_the_start_it_tells_the_whole_cost() -> None:
    found = judged(cells({"fast": FAST, "slow": SLOW}), minus="start", holds="< 0")
    assert {c["arm"]: round(c["change"], 6) for c in found["comparisons"]} == {"fast": -0.55, "slow": -0.3}


def test_what_cannot_be_equal_is_said() -> None:
    worse = dict.fromkeys(POINTS, (-0.5, 0.1))
    with pytest.raises(MetierError, match=r"'slow' \(seed 0\) has gained nothing in t\.bits"):
        judged(cells({"fast": FAST, "slow": worse}))
    with pytest.raises(MetierError, match="has no arm 'none'"):
        judged(cells({"fast": FAST}), minus="none")
