"""Intervals cover, few differing answers are no certainty, Holm steps down, verdicts follow their rules."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from metier import stats


def test_rows_of_their_own_and_equal_weight_give_the_textbook_t_interval() -> None:
    d = np.array([0.1, -0.2, 0.4, 0.3, -0.1, 0.2])
    found = stats.paired(d, np.ones(6), range(6))
    reach = student.ppf(0.975, 5) * d.std(ddof=1) / np.sqrt(6)
    assert found.change == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx((d.mean() - reach, d.mean() + reach))
    assert (found.n, found.clusters) == (6, 6)
    assert found.p_above(0) == pytest.approx(student.sf(d.mean() / (d.std(ddof=1) / np.sqrt(6)), 5))


def test_a_total_is_a_ratio_of_sums() -> None:
    found = stats.paired([1.0, 3.0], [10, 90], ["a", "b"])
    assert found.change == pytest.approx(4 / 100)


def test_rows_of_one_cluster_count_once() -> None:
    d = np.array([0.1, -0.2, 0.4, 0.3, -0.1, 0.2])
    once = stats.paired(d, np.ones(6), range(6))
    often = stats.paired(np.repeat(d, 50), np.ones(300), np.repeat(range(6), 50))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (often.n, often.clusters) == (300, 6)


def test_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    d, w, c = rng.normal(size=40), rng.uniform(1, 2, 40), rng.integers(0, 7, 40)
    order = rng.permutation(40)
    one, other = stats.paired(d, w, list(c)), stats.paired(d[order], w[order], list(c[order]))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_one_cluster_says_nothing() -> None:
    found = stats.paired([0.5, 0.6], [1, 1], ["a", "a"])
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.p_above(-0.03) == pytest.approx(0.5)


@pytest.mark.parametrize("clusters", [8, 12, 30])
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_the_interval_of_a_clustered_ratio_covers(clusters: int, spread: float) -> None:
    """Groups of documents with their own effect, of equal and of unequal size; the true change is −0.1."""
    rng, hits, runs = np.random.default_rng(7), 0, 600
    for _ in range(runs):
        sizes = np.maximum(1, rng.lognormal(1.2, spread, clusters)).astype(int)
        names = np.repeat(np.arange(clusters), sizes)
        w = rng.uniform(0.5, 1.2, len(names))
        d = w * (rng.normal(-0.1, 0.05, clusters)[names] + rng.normal(0, 0.05, len(names)))
        found = stats.paired(d, w, names.tolist())
        hits += found.low <= -0.1 <= found.high
    assert 0.93 <= hits / runs <= 0.985


@pytest.mark.parametrize(("lost", "won", "n"), [(0.01, 0.01, 500), (0.08, 0.04, 500), (0.15, 0.15, 60)])
def test_the_interval_of_a_change_of_right_answers_covers(lost: float, won: float, n: int) -> None:
    rng, hits, runs = np.random.default_rng(3), 0, 800
    for _ in range(runs):
        d = rng.choice([-1, 1, 0], n, p=[lost, won, 1 - lost - won])
        found = stats.paired(d, np.ones(n), range(n), binary=True)
        hits += found.low <= won - lost <= found.high
    assert 0.93 <= hits / runs <= 0.985


def test_answers_that_never_differ_are_no_certainty() -> None:
    plain = stats.paired(np.zeros(500), np.ones(500), range(500))
    found = stats.paired(np.zeros(500), np.ones(500), range(500), binary=True)
    assert plain.high == plain.low == 0
    # Bonett & Price: standard error of one pair lost and one won among 502
    assert found.high == pytest.approx(1.965 * np.sqrt(2) / 502, rel=2e-3)
    assert found.change == 0


def test_agrees_with_a_bootstrap_of_clusters_where_there_are_many() -> None:
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(200), 5)
    w = rng.uniform(0.5, 1.5, 1000)
    d = w * (rng.normal(0.05, 0.1, 200)[names] + rng.normal(0, 0.1, 1000))
    found = stats.paired(d, w, names.tolist())
    sums, sizes = np.bincount(names, d), np.bincount(names, w)
    drawn = rng.integers(0, 200, (5000, 200))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_holm_steps_down() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p = np.random.default_rng(2).uniform(size=30)
    assert stats.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert stats.holm([]) == []


@pytest.mark.parametrize(
    ("high", "p", "verdict"),
    [
        (0.01, 0.001, "non-inferior"),
        (-0.001, 0.025, "non-inferior"),  # a loss, but surely under the margin
        (0.01, 0.026, "inconclusive"),
        (-0.02, 0.4, "inconclusive"),  # surely a loss, not surely beyond the margin
        (-0.03, 0.9, "inconclusive"),
        (-0.031, 0.99, "inferior"),
    ],
)
def test_what_became_of_a_skill(high: float, p: float, verdict: str) -> None:
    assert stats.kept(high, p, 0.03) == verdict


@pytest.mark.parametrize(
    ("low", "high", "clusters", "size", "known", "verdict"),
    [
        (0.01, 0.2, 20, 100_000, False, "gain"),
        (0.01, 0.2, 20, 100_000, True, "gain"),  # what is proved counts, even where the base knew much
        (-0.2, -0.01, 20, 100_000, True, "loss"),
        (-0.1, 0.1, 20, 100_000, False, "too small to tell"),
        (0.0, 0.1, 20, 100_000, False, "too small to tell"),
        (-0.1, 0.1, 20, 100_000, True, "already known"),
        (0.01, 0.2, 20, 19_999, False, "too small to tell"),
        (0.01, 0.2, 4, 100_000, True, "too small to tell"),
    ],
)
def test_what_the_documents_gave(low: float, high: float, clusters: int, size: int, known: bool, verdict: str) -> None:
    assert stats.gained(low, high, clusters=clusters, corpus_bytes=size, known=known) == verdict


def test_rows_must_be_of_equal_number() -> None:
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        stats.paired([1, 2], [1], ["a", "b"])
