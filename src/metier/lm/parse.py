"""Lists and question–answer pairs out of what a model wrote, whatever form it chose; what cannot be read has a reason.

Small models mix forms: a preface, numbers or bullets or none, bold marks, JSON in a fence and cut off at the end.
Nothing is guessed beyond the form: an item stands as it was written, without its number, marks and quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

ITEM = re.compile(r"^\s*(?:\**\(?\d{1,3}[.):]\**|[-*•–]|(?:Item|Prompt)\s*\d+\s*[.):])\s+(?P<text>.*)$", re.I)
LABEL = r"(?:\d{1,3}[.)]\s*)?\**"
QUESTION = re.compile(rf"^\s*{LABEL}(?:Q|Question)\s*\d{{0,3}}\s*[.:)]\**\s*(?P<text>.*)$", re.I)
ANSWER = re.compile(rf"^\s*{LABEL}(?:A|Answer)\s*\d{{0,3}}\s*:\**\s*(?P<text>.*)$", re.I)  # "A." is a choice
JSON = re.compile(r"(?:^|:)\s*([\[{])", re.M)
FENCE = re.compile(r"^\s*```\w*\s*$", re.M)
ASKED = ("question", "q", "prompt", "instruction")
TOLD = ("answer", "a", "response", "output", "completion")


class Items(NamedTuple):
    """What was read, in order, and why the rest was not."""

    found: list[str]
    unread: list[str]


class Pairs(NamedTuple):
    """Questions with their answers, in order, and why the rest was not read."""

    found: list[tuple[str, str]]
    unread: list[str]


def items(text: str) -> Items:
    """Items of a JSON list (of strings, or of objects with one of the usual names), a numbered or a bulleted list.

    Lines before the first item are a preface, later ones without a mark go on with the item above. A text without any
    mark is a list when each of its lines asks something.
    """
    values, broken = _json_values(text)
    if values:
        read = [_first(v, ASKED) if isinstance(v, dict) else v for v in values]
        found = [_clean(v) for v in read if isinstance(v, str) and v.strip()]
        unread = [f"not a text: {_short(v)}" for v, r in zip(values, read, strict=True) if not isinstance(r, str)]
        return Items(found, unread + broken)
    lines = [line for line in FENCE.sub("", text).splitlines() if line.strip()]
    parts: list[str] = []
    for line in lines:
        mark = QUESTION.match(line) or ITEM.match(line)
        if mark:
            parts.append(mark["text"])
        elif parts and not ANSWER.match(line):
            parts[-1] += f" {line.strip()}"
    if not parts and lines and all(line.rstrip(' *"”').endswith("?") for line in lines):
        parts = lines
    found = [_clean(part) for part in parts if _clean(part)]
    return Items(found, broken if found else [*broken, f"no list in: {_short(text)}"])


def pairs(text: str) -> Pairs:
    """Pairs of a JSON list of objects, objects on lines of their own, or of lines that begin with Q: and A:."""
    values, broken = _json_values(text)
    if values:
        read = [(_first(v, ASKED), _first(v, TOLD)) if isinstance(v, dict) else (None, None) for v in values]
        found = [(_clean(q), _clean(a)) for q, a in read if q and a]
        whole = [bool(q and a) for q, a in read]
        unread = [f"no question with answer: {_short(v)}" for v, ok in zip(values, whole, strict=True) if not ok]
        return Pairs(found, unread + broken)
    blocks: list[list[str | None]] = []
    for line in FENCE.sub("", text).splitlines():
        question, answer = QUESTION.match(line), ANSWER.match(line)
        if question:
            blocks.append([question["text"], None])
        elif answer and blocks and blocks[-1][1] is None:
            blocks[-1][1] = answer["text"]
        elif blocks and line.strip():
            at = 0 if blocks[-1][1] is None else 1
            blocks[-1][at] = f"{blocks[-1][at]} {line.strip()}"
    cleaned = [(_clean(q or ""), _clean(a or "")) for q, a in blocks]
    unread = [f"question without an answer: {_short(q)}" for q, a in cleaned if not a]
    unread += [f"answer without a question: {_short(a)}" for q, a in cleaned if a and not q]
    if not blocks:
        unread.append(f"no question in: {_short(text)}")
    return Pairs([(q, a) for q, a in cleaned if q and a], unread + broken)


def _json_values(text: str) -> tuple[list[Any], list[str]]:
    """The texts and objects of a JSON list, or objects one after another; of a list cut off, those that are whole."""
    decoder = json.JSONDecoder()
    start = JSON.search(text)
    at = start.start(1) if start else len(text)
    inside = text[at : at + 1] == "["
    at += inside
    values: list[Any] = []
    while at < len(text):
        at = len(text) - len(text[at:].lstrip(" \t\r\n,"))
        if text[at : at + 1] not in ("{", '"') or (text[at] == '"' and not inside):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return values, [f"JSON breaks off at: {_short(text[at:])}"] if values else []
        lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else []
        values += lists[0] if len(lists) == len(value) == 1 else [value]
    return values, []


def _first(value: dict[str, Any], names: tuple[str, ...]) -> str | None:
    lower = {str(k).lower(): v for k, v in value.items()}
    return next((lower[n] for n in names if isinstance(lower.get(n), str)), None)


def _clean(text: str) -> str:
    """Without line breaks, bold marks and the quotes around it."""
    text = re.sub(r"\s+", " ", text.replace("**", "")).strip()
    if len(text) > 1 and text[0] in "\"“'" and text[-1] in "\"”'":
        text = text[1:-1].strip()
    return text


def _short(value: Any) -> str:
    text = re.sub(r"\s+", " ", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()
    return text if len(text) <= 60 else f"{text[:57]}…"
