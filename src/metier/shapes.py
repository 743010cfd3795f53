"""The shapes people keep training data in: recognised, read into record forms, written back without loss.

``read`` gives the columns of a record form (text · messages · prompt and completion · prompt, replies and scores) and
every other key as a free column. ``write`` is its inverse: with the row as the file had it (``given``), what was not
changed comes back as it stood, and what was changed is written in the file's own way.

    text               text
    messages           messages: [{role, content, …}]; OpenAI's tool calls are read as JSON text, its `weight` is kept
    openai             as messages; or input, preferred_output, non_preferred_output
    sharegpt           conversations: [{from, value}], also {role, content}; system
    alpaca             instruction, input, output, system, history
    prompt_completion  prompt, completion: texts or messages
    preference         chosen, rejected: texts, messages, or whole conversations with a common beginning; prompt
    kto                prompt, completion, label: true or false
    free               anything: every key is a column, and `data.edit.template` makes a form of them
"""

from __future__ import annotations

import json
from typing import Any, cast

from metier.records import Row
from metier.text import replies
from metier.text import turns as talk
from metier.text.turns import Misfit as Misfit
from metier.text.turns import Turn, aligned, say, text_of
from metier.text.turns import alternate as alternate

FORM = ("text", "messages", "prompt", "completion", "replies", "scores")
OURS = ("id", "origin", "source", *FORM)  # a file's own key of such a name becomes the column given_<name>
CARRIED: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "openai": ("messages", "input", "preferred_output", "non_preferred_output"),
    "sharegpt": ("conversations", "system"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "prompt_completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "free": (),
}


def detect(row: Row) -> str | None:
    """The shape a row has, or nothing."""
    if isinstance(row.get("messages"), list):
        return "messages"
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if {"chosen", "rejected"} <= row.keys():
        return "preference"
    if {"input", "preferred_output", "non_preferred_output"} <= row.keys():
        return "openai"
    if {"instruction", "output"} <= row.keys():
        return "alpaca"
    if {"prompt", "completion"} <= row.keys():
        return "prompt_completion" if replies.truth_of(row.get("label")) is None else "kto"
    return "text" if isinstance(row.get("text"), str) else None


def read(row: Row, shape: str) -> Row:
    """The columns of a row: its record form, then its free keys. Raises Misfit."""
    free = {column_of(key): value for key, value in row.items() if key not in CARRIED[shape]}
    return READERS[shape](row) | free


def write(record: Row, shape: str, given: Row | None = None) -> Row:
    """The row a record becomes in a shape. ``given``: the row it was read from in this shape. Raises Misfit.

    Keys keep the order of the file; those of steps since then stand behind them. A column that is gone is not written.
    """
    old = {} if given is None else given
    before = {} if given is None else READERS[shape](given)
    if given is not None and all(same(record.get(name), value) for name, value in before.items()):
        carried = {key: given[key] for key in CARRIED[shape] if key in given}
    else:
        carried = WRITERS[shape]({name: _plain(value) for name, value in record.items()}, old)
    row: Row = {}
    for key, value in old.items():
        column = column_of(key)
        if key in carried:
            row[key] = carried[key]
        elif key not in CARRIED[shape] and column in record:
            row[key] = value if same(record[column], value) else record[column]
    row |= {key: value for key, value in carried.items() if key not in row}
    for column, value in record.items():
        key = key_of(column)
        strict = shape == "openai" and given is None and key != "tools"  # the service takes no keys of others
        if column not in OURS and value is not None and key not in row and key not in old and not strict:
            row[key] = value
    return row


def freed(record: Row, shape: str, given: Row) -> Row:
    """The record with what a table widened or made JSON of as the file had it: for writing it in another shape."""
    kept = {column_of(key): value for key, value in given.items() if key not in CARRIED[shape]}
    return record | {name: value for name, value in kept.items() if name in record and same(record[name], value)}


def own(record: Row) -> str:
    """The shape a record has of itself, wherever it came from."""
    if record.get("messages") is not None:
        return "messages"
    if record.get("replies") is not None:
        return "kto" if len(record["replies"]) == 1 else "preference"
    if record.get("completion") is not None:
        return "prompt_completion"
    return "text" if record.get("text") is not None else "free"


def words(record: Row) -> str:
    """All that is said in a record, whatever its form: the text alone, or what each turn and reply says, on lines."""
    said: list[str] = []
    for value in (record.get(name) for name in FORM):
        for part in value if isinstance(value, list) else [value]:
            said += [part["content"]] if isinstance(part, dict) else [part] if isinstance(part, str) else []
    return "\n".join(said)


def column_of(key: str) -> str:
    return f"given_{key}" if key in OURS or key.startswith("given_") else key


def key_of(column: str) -> str:
    return column.removeprefix("given_")


def same(value: Any, original: Any) -> bool:
    """Whether a column still holds what the file said: a table widens numbers and holds what is nested as JSON."""
    if isinstance(value, str) and not isinstance(original, str):
        return original is not None and value == json.dumps(original, ensure_ascii=False)
    if isinstance(value, float) and isinstance(original, int | float):
        return value == float(original) or (value != value and original != original)
    return bool(value == original or _plain(value) == original)


def _messages(row: Row) -> Row:
    turns = talk.read(row.get("messages"), "messages")
    alternate(turns)
    return {"messages": turns}


def _sharegpt(row: Row) -> Row:
    items = row.get("conversations")
    turns = talk.read(items, "conversations", talk.keys_of(items))
    if row.get("system"):
        turns = [say("system", text_of(row["system"], "system")), *turns]
    alternate(turns)
    return {"messages": turns}


def _alpaca(row: Row) -> Row:
    turns = [say("system", text_of(row["system"], "system"))] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise Misfit("'history' must be pairs of a question and its answer")
    for pair in history:
        if not (isinstance(pair, list) and len(pair) == 2):
            raise Misfit("'history' must be pairs of a question and its answer")
        turns += [say("user", text_of(pair[0], "history")), say("assistant", text_of(pair[1], "history"))]
    asked = text_of(row.get("instruction"), "instruction")
    if row.get("input"):
        asked += "\n\n" + text_of(row["input"], "input")
    turns.append(say("user", asked))
    if row.get("output") is not None:
        turns.append(say("assistant", text_of(row["output"], "output")))
    return {"messages": turns}


def _prompt_completion(row: Row) -> Row:
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else replies.prompt_of(row.get("prompt"))
    return {"prompt": prompt, "completion": replies.reply_of(row.get("completion"), "completion")}


def _openai(row: Row) -> Row:
    if "messages" in row:
        return _messages(row)
    asked = row["input"].get("messages") if isinstance(row.get("input"), dict) else None
    pair = [replies.reply_of(row.get(key), key) for key in CARRIED["openai"][2:]]
    return {"prompt": replies.prompt_of(asked), "replies": pair, "scores": [1.0, 0.0]}


def _write_messages(record: Row, given: Row) -> Row:
    return {"messages": aligned(_conversation(record), given.get("messages"))}


def _write_sharegpt(record: Row, given: Row) -> Row:
    turns, items = _conversation(record), given.get("conversations")
    row: Row = {}
    if "system" in given:
        row["system"] = _empty(given["system"])
        if given["system"] and turns[0]["role"] == "system":
            row["system"], turns = turns[0]["content"], turns[1:]
    return {"conversations": aligned(turns, items, talk.keys_of(items))} | row


def _write_alpaca(record: Row, given: Row) -> Row:
    turns = _conversation(record)
    if any(turn["role"] == "tool" for turn in turns):
        raise Misfit("calls tools, which alpaca cannot say")
    spoken = [turn["content"] for turn in turns if turn["role"] != "system"]
    output = spoken.pop() if len(spoken) % 2 == 0 else None
    *before, asked = spoken
    extra, first = given.get("input") or "", given.get("instruction")
    if extra and asked.endswith(f"\n\n{extra}"):
        asked = asked.removesuffix(f"\n\n{extra}")
    elif extra and asked.startswith(f"{first}\n\n"):
        asked, extra = cast(str, first), asked.removeprefix(f"{first}\n\n")
    else:
        extra = _empty(given.get("input", ""))
    row: Row = {"instruction": asked, "input": extra, "output": output}
    if turns[0]["role"] == "system" or "system" in given:
        row["system"] = turns[0]["content"] if turns[0]["role"] == "system" else _empty(given["system"])
    if before or "history" in given:
        pairs = [[before[i], before[i + 1]] for i in range(0, len(before), 2)]
        row["history"] = pairs or (None if given.get("history") is None else [])
    return row


def _write_prompt_completion(record: Row, given: Row) -> Row:
    prompt, completion = record.get("prompt"), record.get("completion")
    if completion is None:
        turns = _conversation(record)
        if turns[-1]["role"] != "assistant":
            raise Misfit("ends without a reply")
        prompt, completion = turns[:-1], turns[-1]["content"]
    asked = replies.asked_as(prompt, given.get("prompt"))
    return {"prompt": asked, "completion": replies.answer_as(completion, given.get("completion"), asked)}


def _write_openai(record: Row, given: Row) -> Row:
    if record.get("replies") is None:
        return _write_messages(record, given)
    (prompt, pair), asked = replies.best_and_worst(record), given.get("input") or {}
    row = {"input": asked | {"messages": aligned(prompt, asked.get("messages"))}}
    return row | {
        k: replies.answer_as(r, given.get(k), prompt) for k, r in zip(CARRIED["openai"][2:], pair, strict=True)
    }


def _text(row: Row) -> Row:
    return {"text": text_of(row.get("text"), "text")}


def _write_text(record: Row, given: Row) -> Row:
    if record.get("text") is None:
        raise Misfit("has no text")
    return {"text": record["text"]}


def _conversation(record: Row) -> list[Turn]:
    if record.get("messages"):
        return cast(list[Turn], record["messages"])
    if record.get("completion") is None or record.get("prompt") is None:
        raise Misfit("holds no conversation")
    prompt = record["prompt"]
    return [*([say("user", prompt)] if isinstance(prompt, str) else prompt), say("assistant", record["completion"])]


def _empty(was: Any) -> str | None:
    """Nothing, as the file says it: null where it had null."""
    return None if was is None else ""


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return [talk.plain(turn) for turn in value]
    return value


READERS = {
    "text": _text, "messages": _messages, "openai": _openai, "sharegpt": _sharegpt, "alpaca": _alpaca,
    "prompt_completion": _prompt_completion, "preference": replies.preference, "kto": replies.kto,
    "free": lambda row: {},
}  # fmt: skip
WRITERS = {
    "text": _write_text, "messages": _write_messages, "openai": _write_openai, "sharegpt": _write_sharegpt,
    "alpaca": _write_alpaca, "prompt_completion": _write_prompt_completion, "preference": replies.write_preference,
    "kto": replies.write_kto, "free": lambda record, given: {},
}  # fmt: skip
