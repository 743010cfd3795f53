"""Differences are paired, in the measure's unit, over rows and seeds; verdicts follow from intervals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from measures import TASKS
from metier import stats
from metier.analyse import _runs, differences
from metier.analyse._condition import parse
from metier.artefacts import Report, Row
from metier.options import MetierError, checked, parameters


def report(values: dict[str, Any], measure: str = "bits", *, run: tuple[str, str] | None = None, **more: Any) -> Report:
    """``values``: chat → a value for each row."""
    rows: list[Row] = []
    weights, clusters = more.get("weights"), more.get("clusters")
    for chat, found in values.items():
        for i, value in enumerate(found):
            row = {"task": "t", "measure": measure, "chat": chat, "id": f"{measure}{i}", "value": float(value),
                   "cluster": str(clusters[i]) if clusters is not None else f"{measure}{i}",
                   "weight": float(weights[i]) if weights is not None else 1.0}  # fmt: skip
            rows.append(row | ({"point": run[0], "seed": run[1]} if run else {}))
    return Report({"tasks": TASKS}, pa.Table.from_pylist(rows))


def claim(*reports: Report, **options: Any) -> dict[str, Any]:
    given = {"minus": "base", "metric": "t.bits", "holds": "< 0"} | options
    return differences.analyse(list(reports), **given).numbers


def test_the_difference_is_paired_and_in_the_unit_of_the_measure() -> None:
    """d = 0, −1, −2, −1, −1, −1; weights 2: mean −0.5, s = 0.6325 / 2, error = s / √6, t(5) = 2.5706."""
    found = claim(report({"base": [1, 2, 3, 4, 5, 6], "expert": [1, 1, 1, 3, 4, 5]}, weights=[2] * 6))
    (one,) = found["comparisons"]
    assert (one["arm"], one["minus"], one["metric"], one["point"]) == ("expert", "base", "t.bits", "")
    assert one["levels"] == [21 / 12, 15 / 12] and one["change"] == pytest.approx(-0.5)
    reach = 2.570582 * (math.sqrt(2 / 5) / 2) / math.sqrt(6)
    assert (one["low"], one["high"]) == (pytest.approx(-0.5 - reach), pytest.approx(-0.5 + reach))
    assert (one["n"], one["clusters"], one["seeds"], one["verdict"]) == (6, 6, 1, "holds")
    assert found["verdict"] == "holds"


def test_one_sided_p_is_the_t_test_of_scipy() -> None:
    from scipy import stats as scipy

    rng = np.random.default_rng(1)
    base, expert = rng.normal(0, 1, 20), rng.normal(0.5, 1, 20)
    (one,) = claim(report({"base": base, "expert": expert}), holds="> 0.1")["comparisons"]
    assert one["p"] == pytest.approx(scipy.ttest_1samp(expert - base, 0.1, alternative="greater").pvalue, abs=1e-6)
    (one,) = claim(report({"base": base, "expert": expert}), holds="< 0.1")["comparisons"]
    assert one["p"] == pytest.approx(scipy.ttest_1samp(expert - base, 0.1, alternative="less").pvalue, abs=1e-6)


@pytest.mark.parametrize(
    ("holds", "shift", "verdict"),
    [
        ("< 0", -0.5, "holds"), ("> 0", -0.5, "does not hold at this size"), ("< 0", 0.0, "not testable here"),
        ("<= 0.02", 0.0, "not testable here"), ("< 0.9", 0.5, "holds"), (">= -0.7", -0.5, "holds"),
        (">= -0.3", -0.5, "does not hold at this size"), ("> 5e-1", 0.5, "not testable here"),
    ],
)  # fmt: skip
def test_the_verdict_is_read_off_the_interval(holds: str, shift: float, verdict: str) -> None:
    spread = np.tile([-0.3, -0.1, 0.1, 0.3], 10)
    assert claim(report({"base": np.ones(40), "expert": 1 + shift + spread}), holds=holds)["verdict"] == verdict


def test_equal_answers_are_equal() -> None:
    same = report({"base": range(9), "expert": range(9)})
    assert [claim(same, holds=h)["verdict"] for h in ("<= 0", ">= 0", "< 0", "> 0", "< 0.01")] == [
        "holds", "holds", "does not hold at this size", "does not hold at this size", "holds",
    ]  # fmt: skip


def test_arms_that_disagree_hold_in_part_and_a_contradiction_is_one() -> None:
    spread = np.tile([-0.3, -0.1, 0.1, 0.3], 10)
    made = report({"base": np.ones(40), "better": 0.5 + spread, "worse": 1.5 + spread, "same": 1 + spread})
    assert claim(made)["verdict"] == "holds in part"
    assert claim(made, arms=["worse", "same"])["verdict"] == "does not hold at this size"
    assert claim(made, arms=["same"])["verdict"] == "not testable here"
    assert [c["arm"] for c in claim(made)["comparisons"]] == ["better", "worse", "same"]


def test_holm_is_over_all_comparisons_of_a_claim() -> None:
    """A gain that is just clear by itself is not clear beside 19 others."""
    spread = np.tile([-1.0, 1.0], 20)
    arms = {"base": np.zeros(40), "weak": spread - 0.36} | {f"none{i}": spread for i in range(19)}
    assert claim(report(arms), arms=["weak"])["verdict"] == "holds"
    found = claim(report(arms))
    assert found["verdict"] == "not testable here"
    (alone,) = claim(report(arms), arms=["weak"])["comparisons"]
    assert found["comparisons"][0]["p"] == pytest.approx(20 * alone["p"], abs=2e-5)


def test_rows_of_one_cluster_count_once_and_four_clusters_say_nothing() -> None:
    rng = np.random.default_rng(0)
    d = np.repeat(rng.normal(-0.2, 0.1, 8), 10)
    values = {"base": np.zeros(80), "expert": d}
    (one,) = claim(report(values, clusters=np.arange(80) // 10))["comparisons"]
    (naive,) = claim(report(values))["comparisons"]
    assert one["clusters"] == 8 and one["high"] - one["low"] > 2.5 * (naive["high"] - naive["low"])
    few = claim(report(values, clusters=np.arange(80) // 20))
    assert few["verdict"] == "not testable here" and few["comparisons"][0]["low"] is None
    json.dumps(few, allow_nan=False)


def test_right_answers_and_pools() -> None:
    base, expert = np.arange(600) < 300, np.arange(600) < 330
    made = [report({"base": base, "expert": expert}, "facts"), report({"base": base, "expert": base}, "sums")]
    (one,) = claim(*made, metric="t.facts", holds="> 0")["comparisons"]
    assert one["change"] == pytest.approx(0.05) and one["levels"] == [0.5, pytest.approx(0.55)]
    (both,) = claim(*made, metric="t.skills", holds=">= -0.03")["comparisons"]
    assert both["change"] == pytest.approx(0.025) and both["n"] == 1200 and both["verdict"] == "holds"
    unsure = claim(*made, metric="t.sums", holds=">= -0.003")["comparisons"][0]
    assert unsure["change"] == 0 and unsure["low"] < -0.003 and unsure["verdict"] == "not testable"


def seeded(rng: np.random.Generator, seeds: int, rows: int, of_row: float, of_seed: float, both: float) -> list[Report]:
    shared, base = rng.normal(0, of_row, rows), rng.normal(0, 1, rows)
    return [
        report({"base": base, "expert": base + shared + rng.normal(0, of_seed) + rng.normal(0, both, rows)},
               run=("", str(seed)))
        for seed in range(seeds)
    ]  # fmt: skip


def test_seeds_widen_the_interval_by_what_they_differ() -> None:
    """Seeds alike: the interval of the rows. Seeds apart: about the t interval over three seeds."""
    rng = np.random.default_rng(4)
    alike = seeded(rng, 1, 40, 0.1, 0, 0)
    copies = [Report(r.numbers, r.rows.set_column(r.rows.schema.get_field_index("seed"), "seed", pa.array([s] * 80)))
              for r in alike for s in "012"]  # fmt: skip
    (one,), (three,) = claim(*alike)["comparisons"], claim(*copies)["comparisons"]
    assert three["seeds"] == 3 and (one["low"], one["high"]) == pytest.approx((three["low"], three["high"]))
    apart = seeded(rng, 3, 40, 0.001, 0.5, 0.001)
    totals = [c["comparisons"][0]["change"] for c in map(claim, apart)]
    t = stats.paired(totals, np.ones(3), range(3))
    (found,) = claim(*apart)["comparisons"]
    assert (found["low"], found["high"]) == pytest.approx((t.low, t.high), rel=0.01)
    assert found["change"] == pytest.approx(np.mean(totals))


def test_seeds_with_rows_of_their_own_are_compared_as_seeds() -> None:
    made = [report({"base": np.zeros(n), "expert": np.full(n, x)}, run=("", str(s)))
            for s, (n, x) in enumerate([(30, -0.1), (31, -0.2), (32, -0.3)])]  # fmt: skip
    (one,) = claim(*made)["comparisons"]
    assert (one["n"], one["seeds"]) == (3, 3)
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert (one["low"], one["high"]) == pytest.approx((-0.2 - reach, -0.2 + reach))
    single = claim(report({"base": [1], "expert": [0]}, run=("", "0")))
    assert single["verdict"] == "not testable here"


def test_grid_points_are_compared_one_by_one() -> None:
    spread = np.tile([-0.3, -0.1, 0.1, 0.3], 10)
    made = [report({"base": np.zeros(40), "expert": x + spread}, run=(p, "0")) for p, x in (("lr=1", -1), ("lr=2", 1))]
    found = claim(*made)
    assert found["verdict"] == "holds in part"
    assert [(c["point"], c["verdict"]) for c in found["comparisons"]] == [("lr=1", "holds"), ("lr=2", "does not hold")]


def test_a_run_that_lacks_a_side_is_left_out() -> None:
    made = [report({"base": np.zeros(9), "expert": np.ones(9)}, run=("", "0")),
            report({"base": np.zeros(9)}, run=("", "1"))]  # fmt: skip
    assert claim(*made)["comparisons"][0]["seeds"] == 1
    with pytest.raises(MetierError, match=r"no run measured t\.bits of 'base' and of another"):
        claim(report({"base": np.zeros(9)}, run=("", "0")), report({"expert": np.zeros(9)}, run=("", "1")))


@pytest.mark.parametrize(("rows", "of_row", "of_seed", "both"), [
    (40, 1, 0, 0.5), (40, 1, 0.3, 0.5), (40, 0.2, 1, 0.2), (12, 1, 0.2, 1), (40, 0, 0, 1),
])  # fmt: skip
def test_the_interval_over_rows_and_seeds_holds_the_truth(
    rows: int, of_row: float, of_seed: float, both: float
) -> None:
    """1,000 studies of three seeds with a true difference of 0; 95 % less three standard errors is 929."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        d = rng.normal(0, of_row, rows) + rng.normal(0, of_seed, (3, 1)) + rng.normal(0, both, (3, rows))
        over_rows = stats.paired(d.mean(0), np.ones(rows), range(rows))
        over_seeds = stats.paired(d.mean(1), np.ones(3), range(3))
        change = _runs.crossed(over_rows, over_seeds)
        held += change.low <= 0 <= change.high
    assert held >= 929, held


@pytest.mark.parametrize(
    "text", ["", "0", "= 0", "<", "< x", "!= 1", "< 0; import os", "< nan", "<< 1", "< 1 2", "< 1e"]
)
def test_what_is_no_comparison_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no comparison"):
        parse(text)
    holds = next(p for p in parameters(differences.analyse) if p.name == "holds")
    with pytest.raises(MetierError) as error:
        checked("analyse.differences", holds, text)
    wanted = 'analyse.differences: \'holds\' must be a comparison such as "< 0" or ">= -0.03", got '
    assert str(error.value) == f"{wanted}{text!r}"


@pytest.mark.parametrize(("text", "bound"), [("<0", 0), (" >= -0.03 ", -0.03), ("> +1e-3", 1e-3), ("<= .5", 0.5)])
def test_comparisons_are_read(text: str, bound: float) -> None:
    assert parse(text).bound == bound


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"metric": "t.bit"}, "analyse.differences: has no metric 't.bit'; did you mean 't.bits'?"),
        ({"minus": "bass"}, "analyse.differences: has no arm 'bass'; did you mean 'base'?"),
        ({"arms": ["exprt"]}, "analyse.differences: has no arm 'exprt'; did you mean 'expert'?"),
    ],
)
def test_unknown_names_are_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MetierError) as error:
        claim(report({"base": np.zeros(9), "expert": np.ones(9)}), **changed)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        (["holds", "holds"], "holds"), (["holds", "not testable"], "holds in part"),
        (["does not hold", "holds"], "holds in part"), (["does not hold at this size"], "does not hold at this size"),
        (["not testable", "does not hold"], "does not hold at this size"), (["not testable here"], "not testable here"),
        (["holds in part", "holds"], "holds in part"), ([], "not testable here"),
    ],
)  # fmt: skip
def test_verdicts_together(judged: list[str], verdict: str) -> None:
    assert differences.verdict(judged) == verdict
