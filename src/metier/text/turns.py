"""Turns of a conversation: read from whatever a file calls them, checked, and put back where they stood."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from typing import Any, NamedTuple

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "function_call": "assistant", "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
CALLS = ("tool_calls", "function_call")

Turn = dict[str, Any]  # role, content and, where the file gives a reply one, weight


class Misfit(Exception):
    """A row or record does not fit a shape; the message is the end of a sentence that begins with its place."""


class Keys(NamedTuple):
    """What a file calls role, content and, where it differs, our roles."""

    role: str
    content: str
    names: dict[str, str]


OPEN = Keys("role", "content", {})
SHARED = Keys("from", "value", {"user": "human", "assistant": "gpt"})


def alternate(turns: list[Turn]) -> None:
    """Raises Misfit unless user and assistant take turns, behind one system message at most; tools follow a reply."""
    wanted, last = "user", ""
    for number, turn in enumerate(turns, start=1):
        role = turn["role"]
        if role == "tool" and last in ("assistant", "tool"):
            wanted = "assistant"
        elif not (role == "system" and number == 1):
            if role != wanted:
                raise Misfit(f"message {number} is from '{role}' and should be from '{wanted}'")
            wanted = "assistant" if role == "user" else "user"
        last = role
    if last in ("", "system"):
        raise Misfit("holds no message of a user")


def keys_of(items: Any) -> Keys:
    """How the items of a shared conversation are keyed."""
    open_ = isinstance(items, list) and items and isinstance(items[0], dict) and "role" in items[0]
    return OPEN if open_ else SHARED


def read(items: Any, key: str, keys: Keys = OPEN) -> list[Turn]:
    """The turns in a list of a file's own messages. Raises Misfit."""
    if not isinstance(items, list):
        raise Misfit(f"'{key}' must be a list of messages, got {said(items)}")
    return [_turn(number, item, keys) for number, item in enumerate(items, start=1)]


def say(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def plain(turn: Turn) -> Turn:
    """Without the empty weight that a table gives a turn when others have one."""
    return {name: value for name, value in turn.items() if value is not None}


def aligned(turns: list[Turn], items: Any, keys: Keys = OPEN) -> list[Any]:
    """The file's own messages where nothing changed, else with the new text; new ones in the file's way."""
    items = items if isinstance(items, list) else []
    before = [_turn(number, item, keys) for number, item in enumerate(items, start=1)]
    if before == turns:
        return items
    found: list[Any] = []
    old, new = ([json.dumps(t, sort_keys=True) for t in ts] for ts in (before, turns))
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            found += items[a:b]
            continue
        for k in range(c, d):
            at = a + k - c
            same = at < b and before[at]["role"] == turns[k]["role"]
            found.append(_written(items[at] if same else {}, turns[k], keys))
    return found


def transcript(text: str) -> list[Turn]:
    """The turns of a text that says ``Human:`` and ``Assistant:`` before each."""
    _, *parts = SPEAKER.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [say(roles[parts[i]], parts[i + 1]) for i in range(0, len(parts), 2)]


def told(turns: list[Turn]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names.get(t['role'], t['role'].title())}: {t['content']}" for t in turns)


def text_of(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise Misfit(f"'{key}' must be text, got {said(value)}")
    return value


def said(value: Any) -> str:
    """A value in a sentence: shown when it is short, else by its kind."""
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return kinds.get(type(value)) or repr(value)


def _turn(number: int, item: Any, keys: Keys) -> Turn:
    if not isinstance(item, dict) or keys.role not in item:
        raise Misfit(f"message {number} must be {{{keys.role}, {keys.content}}}, got {said(item)}")
    role = item[keys.role]
    if not isinstance(role, str) or role not in ROLES:
        raise Misfit(f"message {number} is from {role!r}; known are {', '.join(sorted(ROLES))}")
    turn = say(ROLES[role], _content(number, item, keys))
    weight = item.get("weight")  # of a reply: 0 is not learnt
    if turn["role"] == "assistant" and isinstance(weight, int | float) and not isinstance(weight, bool):
        turn["weight"] = float(weight)
    return turn


def _content(number: int, item: dict[str, Any], keys: Keys) -> str:
    content, lines = item.get(keys.content), []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            lines.append(part["text"])
        elif isinstance(part, str):
            lines.append(part)
        elif part is not None:
            kind = part.get("type") if isinstance(part, dict) else None
            raise Misfit(f"message {number} holds {kind or said(part)}, and records hold text")
    calls = item.get("tool_calls") or [{"function": item[c]} for c in CALLS[1:] if item.get(c)]
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise Misfit(f"message {number} calls a tool without saying which function")
        lines.append(json.dumps({"name": function.get("name"), "arguments": _opened(function.get("arguments"))},
                                ensure_ascii=False))  # fmt: skip
    if content is None and not lines:
        raise Misfit(f"message {number} has no '{keys.content}'")
    return "\n".join(lines)


def _opened(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _written(old: dict[str, Any], turn: Turn, keys: Keys) -> dict[str, Any]:
    """A message in the file's way; calls of tools stand in its text once that was changed."""
    item = {name: value for name, value in old.items() if name not in CALLS}
    item.setdefault(keys.role, keys.names.get(turn["role"], turn["role"]))
    item[keys.content] = turn["content"]
    if "weight" in turn and turn["weight"] != item.get("weight"):
        item["weight"] = turn["weight"]
    return item
