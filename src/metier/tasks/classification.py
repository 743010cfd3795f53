"""Putting texts into classes: which label is the likeliest, for chats and classifiers alike.

For any records with a `label`: topics, intents, sentiments, risk classes. A chat is asked by a template and chooses
among the labels; a classifier (`train.loop.head`) answers the same rows. The training rows ``$task.train`` hold what is
asked as `prompt`, the label as `completion` for a chat and as `label` for a classifier: both learn what they are asked.
Beside the share of right labels stand macro F1, which counts a rare label as much as a common one, and F1 of each.

    F1 of a label = 2·tp / (2·tp + fp + fn);   macro F1 = their mean over the labels that are asked for or given

Records keep the split they have; without one, a share of every label is held out, whole groups of them where there is a
column `group`.

Options:
    template: what is asked; `{text}` stands for the text.
    test: share held out when the records have no column `split`.
    seed: decides which are.
Raises: MetierError without a column `label`, with a single label, or without a test record.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from metier.artefacts import Measure, Records, Row, Task
from metier.options import MetierError, Seed, Share

NAME = "tasks.classification"
NEEDS = {"chats": "logits"}


def make(data: Records, *, template: str = "{text}\nLabel:", test: Share = 0.3, seed: Seed = 0) -> Task:
    if "{text}" not in template:
        raise MetierError(f"{NAME}: 'template' must hold '{{text}}', got {template!r}")
    if "label" not in data.columns:
        raise MetierError(f"{NAME}: needs records with a column 'label'; they have: {', '.join(data.columns)}")
    rows = [row for row in data if row["label"] is not None and _text(row)]
    labels = sorted({str(row["label"]) for row in rows})
    if len(labels) < 2:
        raise MetierError(f"{NAME}: needs two labels or more, got {', '.join(labels) or 'none'}")
    split = {r["id"]: r["split"] for r in rows} if "split" in data.columns else _split(rows, test, seed)
    made = [_row(row, split[row["id"]], template, labels) for row in rows]
    asked = Counter(labels[row["gold"]] for row in made if row["split"] == "test")
    if not asked:
        raise MetierError(f"{NAME}: there is no record in the split 'test'")
    measure = Measure(
        "choose", "domain", "accuracy", "higher", "right labels",
        f"Which of {len(labels)} labels a held-out text has.", chance=1 / len(labels),
    )  # fmt: skip
    notes = {"labels": labels, "rows": dict(sorted(asked.items())), "left_out": len(data) - len(rows)}
    return Task("classification", NAME, Records.from_rows(made), {"label": measure}, notes)


def total(measure: str, rows: list[Row]) -> dict[str, float]:
    """``macro_f1``, and ``f1 <label>`` of every label that is asked for or given."""
    each = f1([row["gold"].strip() for row in rows], [row["reply"].strip() for row in rows])
    return {"macro_f1": sum(each.values()) / len(each)} | {f"f1 {label}": value for label, value in each.items()}


def f1(gold: list[str], given: list[str]) -> dict[str, float]:
    """F1 of every label, by name."""
    right = Counter(a for a, b in zip(gold, given, strict=True) if a == b)
    wanted, said = Counter(gold), Counter(given)
    return {label: 2 * right[label] / (wanted[label] + said[label]) for label in sorted(wanted | said)}


def _row(row: Row, split: str | None, template: str, labels: list[str]) -> Row:
    label, prompt = str(row["label"]), template.replace("{text}", _text(row))
    found: dict[str, Any] = {"id": row["id"], "split": split, "prompt": prompt, "label": label,
                             "cluster": row.get("group") or row["id"]}  # fmt: skip
    if split != "test":
        return found | {"measure": None, "completion": f" {label}", "choices": None, "gold": labels.index(label)}
    return found | {"measure": "label", "completion": None, "choices": [f" {name}" for name in labels],
                    "gold": labels.index(label)}  # fmt: skip


def _text(row: Row) -> str:
    """The text, or the question of a conversation that has only one turn."""
    turns = row.get("messages") or []
    if row.get("text") or not turns:
        return row.get("text") or ""
    if len(turns) > 1:
        raise MetierError(
            f"{NAME}: record {row['id']!r} has {len(turns)} messages; only a text can be put into classes"
        )
    return str(turns[0]["content"])


def _split(rows: list[Row], share: float, seed: int) -> dict[str, str]:
    """Of the groups (or records) of each label, by the first record in a group, the same share is test."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(str(row.get("group") or row["id"]), []).append(row)
    found: dict[str, str] = {}
    for number, label in enumerate(sorted({str(row["label"]) for row in rows})):
        groups = [group for group in members.values() if str(group[0]["label"]) == label]
        held = set(
            np.random.default_rng([seed, number]).permutation(len(groups))[: round(len(groups) * share)].tolist()
        )
        found |= {row["id"]: "test" if at in held else "train" for at, group in enumerate(groups) for row in group}
    return found
