"""Paired changes with intervals over clusters, Holm's step-down, and the rules that turn them into verdicts.

Two models answer the same rows; rows of one cluster (a group of documents) are not independent. The change of a total
Σ value / Σ weight (bits per byte, a mean) is Σ difference / Σ weight. Its interval is a t interval over clusters with
two corrections for few and unequal ones: residuals are divided by the root of 1 − share of weight, and there are
1 / Σ share² − 1 degrees of freedom (the effective number of clusters, less one). The tests simulate its coverage with
few, unequal and skewed clusters, where percentiles of a cluster bootstrap fall short. It needs no seed.

Papers: Cameron, Gelbach & Miller 2008 (few clusters); Bonett & Price 2012 (paired proportions); Holm 1979.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, rankdata
from scipy.stats import t as student

Floats = NDArray[np.float64]
Kept = Literal["non-inferior", "inferior", "inconclusive", "too small to tell"]
Gained = Literal["gain", "loss", "already known", "too small to tell"]

LEVEL = 0.95
FEWEST_CLUSTERS = 5  # under this an interval over clusters says nothing
FEWEST_ANSWERS = 500  # under this a single share of right answers is not judged against a margin of 3 points
THRESHOLDS = 10  # of confidence that are tried
FEWEST_BYTES = 20_000  # a smaller corpus has no held-out part worth the name


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of a total and the interval around it; ``clusters`` are what the interval rests on."""

    change: float
    low: float
    high: float
    n: int
    clusters: int
    centre: float  # of the interval; differs from ``change`` where pairs were added
    error: float  # standard error
    freedom: float  # degrees of freedom of the t distribution

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the change is at most ``bound``": small when it is surely above."""
        return float(student.sf(_ratio(self.centre - bound, self.error), self.freedom))


def paired(
    differences: ArrayLike,
    weights: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    binary: bool = False,
    level: float = LEVEL,
) -> Change:
    """The change Σ differences / Σ weights with its interval, from paired rows.

    differences [n] after − before of each row's value, weights [n] > 0, clusters [n] names. ``binary`` is for
    differences of right and wrong answers (−1, 0, 1): one pair of each kind is added before the interval is made
    (Bonett & Price 2012), so that few or no differing answers do not pass for certainty.

    Infinite bounds when there are fewer than two effective clusters. Raises ValueError for no rows or unequal lengths.
    """
    d, w = np.asarray(differences, np.float64), np.asarray(weights, np.float64)
    if not len(d) or not len(d) == len(w) == len(clusters):
        raise ValueError(f"paired needs rows of equal number, got {len(d)}, {len(w)} and {len(clusters)}")
    codes = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)[1]
    sums, sizes = np.bincount(codes, d).astype(np.float64), np.bincount(codes, w).astype(np.float64)  # [clusters]
    change, found = float(sums.sum() / sizes.sum()), len(sums)
    if binary:
        one = sizes.sum() / len(d)  # weights need not be 1: a pair added weighs as much as an average row
        sums, sizes = np.append(sums, [one, -one]), np.append(sizes, [one, one])
    centre, error, freedom = _linearised(sums, sizes)
    reach = float(student.ppf((1 + level) / 2, freedom)) * error if freedom > 0 else float("inf")
    return Change(change, centre - reach, centre + reach, len(d), found, centre, error, max(freedom, 1e-9))


def _linearised(sums: Floats, sizes: Floats) -> tuple[float, float, float]:
    """Ratio of sums, its standard error and degrees of freedom, from the sums of every cluster."""
    total = sizes.sum()
    share = sizes / total
    ratio = sums.sum() / total
    if len(sums) < 2:
        return float(ratio), float("inf"), 0.0
    residuals = (sums - ratio * sizes) / np.sqrt(1 - share)
    return float(ratio), float(np.sqrt((residuals**2).sum()) / total), float(1 / (share**2).sum() - 1)


def _ratio(distance: float, error: float) -> float:
    if error > 0:
        return distance / error
    return float(np.copysign(np.inf, distance)) if distance else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: reject those at most alpha and the family errs at most alpha."""
    adjusted = [0.0] * len(p)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def kept(high: float, p: float, margin: float, *, alpha: float = (1 - LEVEL) / 2) -> Kept:
    """What became of a skill; the change is counted so that more is better, ``p`` is Holm's for "lost ≥ margin".

    * *non-inferior*: p ≤ alpha, so the loss is surely smaller than the margin (one-sided, as the 95 % interval is);
    * *inferior*: the upper bound of the plain interval is below −margin, so the loss is surely greater. It is not
      adjusted: a warning should not fade because more was measured;
    * *inconclusive*: neither.
    """
    if p <= alpha:
        return "non-inferior"
    return "inferior" if high < -margin else "inconclusive"


def gained(low: float, high: float, *, clusters: int, corpus_bytes: int, known: bool) -> Gained:
    """What the documents gave, net of the control; counted so that more is better.

    * *too small to tell*: under 20 kB of documents or five groups of them, whatever the interval says;
    * *gain* or *loss*: the interval lies on one side of zero;
    * otherwise *already known* when the base foresaw these documents as well as general text, else *too small to tell*.
    """
    if clusters < FEWEST_CLUSTERS or corpus_bytes < FEWEST_BYTES:
        return "too small to tell"
    if low > 0 or high < 0:
        return "gain" if low > 0 else "loss"
    return "already known" if known else "too small to tell"


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width: Σ share of the bin · |accuracy − confidence|."""
    found = reliability(confidence, right, bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in found) / sum(b["n"] for b in found)


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """Mean confidence, accuracy and n of every bin that is not empty; a confidence of 1 falls into the last one."""
    c, r = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    at = np.minimum((c * bins).astype(np.int64), bins - 1)
    return [
        {"confidence": float(c[at == b].mean()), "accuracy": float(r[at == b].mean()), "n": int((at == b).sum())}
        for b in np.unique(at)
    ]


def auroc(score: ArrayLike, right: ArrayLike) -> float | None:
    """Chance that a right answer scores above a wrong one, ties as half; None without answers of both kinds."""
    r = np.asarray(right, np.float64) > 0.5
    good, bad = int(r.sum()), int((~r).sum())
    if not good or not bad:
        return None
    return float((rankdata(score)[r].sum() - good * (good + 1) / 2) / (good * bad))


def risk_bound(wrong: int, n: int, error: float) -> float:
    """Upper bound (Clopper & Pearson) of a share of wrong answers, missed with a probability of at most ``error``."""
    return 1.0 if wrong >= n else float(beta.ppf(1 - error, wrong + 1, n - wrong))


def trusted_from(confidence: ArrayLike, right: ArrayLike, risk: float, error: float = 1 - LEVEL) -> float | None:
    """The confidence from which on at most a share ``risk`` of answers is wrong, for new answers like these.

    The lowest of ten thresholds (those that answer all, nine tenths, … one tenth) at which a bound of the share of
    wrong answers stays under the risk; each may fail with a tenth of ``error``. None when none promises it.
    """
    order = np.argsort(confidence, kind="stable")
    c, r = np.asarray(confidence, np.float64)[order], np.asarray(right, np.float64)[order] > 0.5
    for left_out in range(min(THRESHOLDS, len(c))):
        first = int(np.searchsorted(c, c[len(c) * left_out // THRESHOLDS]))  # equal confidences are answered together
        if risk_bound(int((~r[first:]).sum()), len(c) - first, error / THRESHOLDS) <= risk:
            return float(c[first])
    return None
