"""What the numbers of an adaptation say, in sentences a manager understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metier import stats


def headline(measures: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """One sentence: what became of the field, and what of general skills."""
    field = next((_field(m, notes) for m in measures if m["kind"] == "domain" and m.get("main")), "")
    skills = _skills([m for m in measures if m["kind"] == "retention"])
    text = "; ".join(part for part in (field, skills) if part)
    return f"{text[:1].upper()}{text[1:]}." if text else "Nothing was measured."


def notes(
    measures: Sequence[dict[str, Any]], *, corpus_bytes: int | None, controlled: bool, before: float | None,
    prose: float | None,
) -> list[str]:  # fmt: skip
    """What a reader must know to judge the verdicts; ``before`` and ``prose``: the base's bits per byte of both."""
    found = []
    if corpus_bytes is not None and corpus_bytes < stats.FEWEST_BYTES:
        least = stats.FEWEST_BYTES // 1000
        found.append(f"There are {corpus_bytes / 1000:.1f} kB of documents; under {least} kB no gain can be told.")
    few = next((m["clusters"] for m in measures if m.get("main") and m["clusters"] < stats.FEWEST_CLUSTERS), None)
    if few is not None:
        groups = f"{few} group{'s' if few > 1 else ''}"
        found.append(f"The held-out documents form {groups}; under {stats.FEWEST_CLUSTERS} no gain can be told.")
    if before is not None and prose is not None and before <= prose:
        found.append(
            f"Before training the model predicted these documents ({before:.2f} bits per byte) as well as general "
            f"prose ({prose:.2f})."
        )
    if before is not None and not controlled:
        found.append("There is no control: a part of the gain may come from training on any text.")
    return found


def _field(m: dict[str, Any], notes: Sequence[str]) -> str:
    if m["verdict"] == "already known":
        known = "the model already predicted your documents as well as general text"
        return f"{known}, and training added nothing that can be told"
    if m["verdict"] == "too small to tell":
        why = next((n for n in notes if "no gain can be told" in n), "").rstrip(".")
        why = why[:1].lower() + why[1:]
        return f"whether the model learnt your documents cannot be told{f' ({why})' if why else ''}"
    beside, told = (m["control"], "after as much training on general text") if m.get("net") else (m["before"], "before")
    share = f"{abs(m['after'] - beside) / beside:.0%}"
    if m["verdict"] == "loss":
        return f"training on your documents did harm: it takes {share} more bits to predict unseen ones than {told}"
    return f"your documents taught the model its field: it takes {share} fewer bits to predict unseen ones than {told}"


def _skills(measures: Sequence[dict[str, Any]]) -> str:
    judged = [m for m in measures if m["verdict"] in ("non-inferior", "inferior", "inconclusive")]
    main = next((m for m in judged if m.get("members")), None)
    if main is None:
        return "general skills were not judged" if measures else ""
    lost = [m["name"] for m in judged if m["verdict"] == "inferior" and m is not main]
    levels = f"{main['before']:.1%} → {main['after']:.1%} right answers"
    if main["verdict"] == "non-inferior":
        return f"general skills were kept ({levels})" + (f", except {_listed(lost)}, which got worse" if lost else "")
    if main["verdict"] == "inferior":
        return f"general skills were lost ({levels})"
    return f"whether general skills were kept cannot be told ({levels})" + (
        f", and {_listed(lost)} got worse" if lost else ""
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
