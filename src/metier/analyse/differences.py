"""Whether one arm beats another: paired differences, intervals, the verdict on a claim.

For reports of `evaluate.compare`, of one recipe or of all cells of a study; nothing is asked anew. The difference
arm − minus is taken on the same rows, in the measure's unit. Its interval (95 %) is over clusters of rows and, where a
study has several seeds, over seeds as well: the claim is then about other test rows and other seeds, not these alone.
Every arm, metric and grid point is a comparison; Holm's step-down is over all of a claim. A comparison *holds* when its
interval lies wholly where `holds` says (adjusted), *does not hold* when it lies wholly elsewhere, and is *not testable*
when it covers both. All comparisons agree: that is the verdict; some hold and others do not: *holds in part*.

    difference = Σ (value of arm − value of minus) / Σ weight, rows averaged over seeds first
    variance   = over clusters of rows + over seeds       (crossed, rather too wide than too narrow)

Numbers: verdict, holds, comparisons {arm, minus, metric, point, levels, change, low, high, n, clusters, seeds, p,
verdict}.

Options:
    minus: the chat, or the arm of a study, that is compared with.
    metric: the measure as ``task.measure``, one or several; a pool is ``task.name of the pool``.
    holds: what is claimed of the difference, such as ``< 0``, ``> 0``, ``< 0.02`` or ``>= -0.03``.
    arms: the chats or arms the claim is about; all others when not given.
Raises: MetierError for an unknown metric, or when no run has both sides, or they were asked different rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metier import stats
from metier.analyse._condition import Comparison, parse
from metier.analyse._runs import Difference, Runs, arrange, difference, known, level
from metier.artefacts import Report
from metier.options import MetierError

EXAMPLE = {"minus": "base", "metric": "toy.bits_per_byte", "holds": "< 0"}
ALPHA = (1 - stats.LEVEL) / 2  # one-sided, as a 95 % interval is on either side


def analyse(
    reports: list[Report], *, minus: str, metric: str | list[str], holds: Comparison, arms: list[str] | None = None
) -> Report:
    runs = arrange(reports)
    found = _differences(runs, [metric] if isinstance(metric, str) else metric, minus, arms)
    condition = parse(holds)
    p = stats.holm([condition.p(d.change) for d in found])
    comparisons = [
        told(d, runs) | {"p": round(q, 6), "verdict": condition.judge(d.change, q, ALPHA)}
        for d, q in zip(found, p, strict=True)
    ]
    return Report({
        "verdict": verdict([c["verdict"] for c in comparisons]), "holds": holds, "comparisons": comparisons
    })  # fmt: skip


def verdict(judged: Sequence[str]) -> str:
    """Of all comparisons of a claim, or of all claims of a study."""
    kinds = {j.removesuffix(" at this size").removesuffix(" here") for j in judged}
    if kinds == {"holds"}:
        return "holds"
    if kinds & {"holds", "holds in part"}:
        return "holds in part"
    return "does not hold at this size" if "does not hold" in kinds else "not testable here"


def _differences(runs: Runs, metrics: list[str], minus: str, arms: list[str] | None) -> list[Difference]:
    chats = known("analyse.differences", runs, metrics, [minus, *(arms or [])])
    found = [
        difference(seeds, name, arm, minus, point)
        for name in metrics for arm in arms or chats if arm != minus for point, seeds in runs.items()
    ]  # fmt: skip
    if not any(found):
        raise MetierError(f"analyse.differences: no run measured {' or '.join(metrics)} of '{minus}' and of another")
    return [d for d in found if d is not None]


def told(d: Difference, runs: Runs) -> dict[str, Any]:
    """A comparison as the report has it, without its verdict."""
    low, high = (x if math.isfinite(x) else None for x in (d.change.low, d.change.high))
    return {
        "arm": d.arm, "minus": d.minus, "metric": d.metric, "point": d.point,
        "levels": [level(runs[d.point], d.metric, arm) for arm in (d.minus, d.arm)],
        "change": d.change.change, "low": low, "high": high, "n": d.change.n, "clusters": d.change.clusters,
        "seeds": d.seeds,
    }  # fmt: skip
