"""How often the likeliest choice is right, and whether the probabilities deserve trust.

For tasks that are answered by choosing, where it matters how sure a model is: routing, refusing, labelling. Beside the
accuracy of `evaluate.compare` each row gives, over its own choices, the *probability* of the right one, the
*confidence* in the one chosen and the *brier* score; all of them can be paired. Totals of the confidence tell the
expected calibration error and how well confidence tells right from wrong answers (AUROC). Measures that are read or
written are left out.

    p = softmax(score)      Brier = Σ (p − right)² over choices      ECE = Σ bins share · |accuracy − confidence|

Paper: On Calibration of Modern Neural Networks (Guo et al., 2017)

Options:
    only: the measures to ask; all that are chosen when not given.
    normalise: length of a choice taken out of its score: not at all, by *bytes*, or as its *task* says.
    bins: of equal width, for the calibration error.
Raises: MetierError when no task has anything to choose.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from metier import stats
from metier.artefacts import Measure, Report, Row, Task
from metier.evaluate import _ask
from metier.lm.chat import Chat
from metier.options import Count
from metier.store import Work

NEEDS = {"access": "logits"}
# name: (unit, better, what is said of it)
DERIVED: dict[str, tuple[str, Literal["higher", "lower"], str]] = {
    "probability": ("probability", "higher", "Probability of the right choice among the choices."),
    "confidence": ("probability", "higher", "Probability of the choice that was taken."),
    "brier": ("Brier score", "lower", "Squared distance of the probabilities from the truth."),
}


def measure(
    chats: dict[str, Chat], tasks: list[Task], *, only: list[str] | None = None,
    normalise: Literal["task", "none", "bytes"] = "task", bins: Count = 10, work: Work,
) -> Report:  # fmt: skip
    """Rows as of `evaluate.compare`, under ``m``, ``m.probability``, ``m.confidence`` and ``m.brier``.

    Numbers: also ``calibration`` {chat: {task: {measure: {accuracy, confidence, brier, ece, auroc, bins}}}}.
    """

    def ask(chat: Chat, task: Task, name: str, rows: list[Row], advance: _ask.Advance) -> tuple[list[Row], float]:
        how = task.measures[name].normalise if normalise == "task" else normalise
        scores, tokens = _ask.choose(chat, rows, how, advance)
        return [new for r, s in zip(rows, scores, strict=True) for new in _rows(name, r, s)], tokens

    found = _ask.collect(
        "evaluate.choice", chats, tasks, ask, work, facts=("choice", normalise), only=only, kinds=("choose",)
    )
    chosen = [
        dataclasses.replace(t, measures={n: m for n, m in t.measures.items() if m.ask == "choose"}) for t in tasks
    ]
    derived = {t.name: {k: v for n, m in t.measures.items() for k, v in _derived(n, m).items()} for t in chosen}
    calibration: dict[str, Any] = {}
    for task in chosen:
        by_measure = _ask.grouped_rows(found.rows, task.name)
        for chat, name in (key for key in by_measure if key[1] in task.measures):
            told = {k: [r["value"] for r in by_measure[chat, f"{name}.{k}"]] for k in ("confidence", "brier")}
            right = [r["value"] for r in by_measure[chat, name]]
            place = calibration.setdefault(chat, {}).setdefault(task.name, {})
            place[name] = calibrated(told["confidence"], right, bins) | {"brier": float(np.mean(told["brier"]))}
    return _ask.report(chosen, found, derived, calibration=calibration)


def calibrated(confidence: list[float], right: list[float], bins: int) -> dict[str, Any]:
    return {
        "accuracy": float(np.mean(right)), "confidence": float(np.mean(confidence)),
        "ece": stats.calibration_error(confidence, right, bins), "auroc": stats.auroc(confidence, right),
        "bins": stats.reliability(confidence, right, bins),
    }  # fmt: skip


def _rows(name: str, row: Row, scores: list[float]) -> list[Row]:
    p = softmax(scores)
    truth = np.arange(len(p)) == row["gold"]
    values = {"probability": p[row["gold"]], "confidence": p.max(), "brier": ((p - truth) ** 2).sum()}
    return [
        _ask.chosen(name, row, scores), *(_ask.made(f"{name}.{k}", row, float(v)) for k, v in values.items())
    ]  # fmt: skip


def _derived(name: str, how: Measure) -> dict[str, Measure]:
    return {
        f"{name}.{k}": Measure("write", how.kind, unit, better, f"{how.title}, {k}", words)
        for k, (unit, better, words) in DERIVED.items()
    }
