"""Prompts with replies that are rated: as preferences, as KTO's thumbs; how a file writes prompt and reply."""

from __future__ import annotations

from typing import Any, cast

from metier.text import turns as talk
from metier.text.turns import Misfit, Turn, aligned, alternate, say

Row = dict[str, Any]
TRUTH = {"true": True, "false": False}


def preference(row: Row) -> Row:
    """Prompt, replies and scores of chosen and rejected. Raises Misfit."""
    good, bad = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None and not _whole(good):
        asked, replies = prompt_of(row["prompt"]), [reply_of(good, "chosen"), reply_of(bad, "rejected")]
        return {"prompt": asked, "replies": replies, "scores": [1.0, 0.0]}
    if not (isinstance(good, str) and isinstance(bad, str)):
        turns = [talk.read(good, "chosen"), talk.read(bad, "rejected")]
    elif talk.SPEAKER.match(good):
        turns = [talk.transcript(good), talk.transcript(bad)]
    else:
        cut = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), min(len(good), len(bad)))
        cut = max(good.rfind(blank, 0, cut) for blank in " \n") + 1
        if not good[:cut].strip():
            raise Misfit("has no prompt, and 'chosen' and 'rejected' share no beginning")
        turns = [[say("user", good[:cut].strip()), say("assistant", reply[cut:])] for reply in (good, bad)]
    for each in turns:
        alternate(each)
    if turns[0][:-1] != turns[1][:-1] or any(each[-1]["role"] != "assistant" for each in turns):
        raise Misfit("'chosen' and 'rejected' must differ in their last reply only")
    return {"prompt": turns[0][:-1], "replies": [each[-1]["content"] for each in turns], "scores": [1.0, 0.0]}


def write_preference(record: Row, given: Row) -> Row:
    """Chosen and rejected as the file has them: beside a prompt, or as whole conversations. Raises Misfit."""
    prompt, pair = best_and_worst(record)
    good = given.get("chosen")
    if not given or (given.get("prompt") is not None and not _whole(good)):
        asked = asked_as(prompt, given.get("prompt"))
        return {"prompt": asked, "chosen": answer_as(pair[0], good, asked),
                "rejected": answer_as(pair[1], given.get("rejected"), asked)}  # fmt: skip
    old, row = preference(given), {}
    if "prompt" in given:
        row["prompt"] = given["prompt"] if prompt == old["prompt"] else asked_as(prompt, given["prompt"])
    for key, reply, was in zip(("chosen", "rejected"), pair, old["replies"], strict=True):
        if not isinstance(given[key], str):
            row[key] = aligned([*prompt, say("assistant", reply)], given[key])
        elif prompt == old["prompt"]:
            row[key] = given[key].removesuffix(was) + reply
        elif talk.SPEAKER.match(given[key]):
            row[key] = talk.told([*prompt, say("assistant", reply)])
        else:
            row[key] = f"{prompt[-1]['content']} {reply}"
    return row


def kto(row: Row) -> Row:
    """Prompt, one reply and its score. Raises Misfit."""
    truth = truth_of(row.get("label"), numbers=True)
    if truth is None:
        raise Misfit(f"'label' must be true or false, got {row.get('label')!r}")
    replies = [reply_of(row.get("completion"), "completion")]
    return {"prompt": prompt_of(row.get("prompt")), "replies": replies, "scores": [float(truth)]}


def write_kto(record: Row, given: Row) -> Row:
    if len(record.get("replies") or []) != 1:
        raise Misfit("needs one reply with a score to be written as kto")
    asked, truth = asked_as(record["prompt"], given.get("prompt")), record["scores"][0] > 0.5
    label = given["label"] if given and truth_of(given["label"], numbers=True) == truth else truth
    return {"prompt": asked, "completion": answer_as(record["replies"][0], given.get("completion"), asked),
            "label": label}  # fmt: skip


def best_and_worst(record: Row) -> tuple[list[Turn], list[str]]:
    """The prompt, and the best and the worst reply. Raises Misfit when none is better."""
    ranked = sorted(zip(record.get("scores") or [], record.get("replies") or [], strict=False), key=lambda p: -p[0])
    if len(ranked) < 2 or ranked[0][0] <= ranked[-1][0]:
        raise Misfit("needs two replies, one with a higher score")
    return record["prompt"], [ranked[0][1], ranked[-1][1]]


def prompt_of(value: Any) -> list[Turn]:
    turns = [say("user", value)] if isinstance(value, str) else talk.read(value, "prompt")
    alternate([*turns, say("assistant", "")])
    return turns


def reply_of(value: Any, key: str) -> str:
    if isinstance(value, str):
        return value
    turns = talk.read(value, key)
    if [turn["role"] for turn in turns] != ["assistant"]:
        raise Misfit(f"'{key}' must be one reply of the assistant, got {len(turns)} messages")
    return cast(str, turns[0]["content"])


def asked_as(prompt: Any, given: Any) -> Any:
    """A prompt as the file writes it; in a new row as the record has it, so that a file holds prompts of one kind."""
    turns = [say("user", prompt)] if isinstance(prompt, str) else prompt
    text = isinstance(prompt, str) if given is None else isinstance(given, str)
    return turns[0]["content"] if text and [turn["role"] for turn in turns] == ["user"] else aligned(turns, given)


def answer_as(reply: str, given: Any, asked: Any) -> Any:
    """A reply as the file writes it; in a new row, in the way of its prompt."""
    listed = isinstance(given, list) or (given is None and isinstance(asked, list))
    return aligned([say("assistant", reply)], given) if listed else reply


def truth_of(label: Any, numbers: bool = False) -> bool | None:
    if isinstance(label, str):
        return TRUTH.get(label.strip().lower())
    return bool(label) if isinstance(label, bool) or (numbers and label in (0, 1)) else None


def _whole(chosen: Any) -> bool:
    """Whether replies are given as whole conversations."""
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    return isinstance(first, dict) and first.get("role") != "assistant"
