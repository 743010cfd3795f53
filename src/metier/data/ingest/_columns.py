"""What type a column of a table has, when a file may put any JSON into it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from metier import shapes
from metier.artefacts import Row
from metier.options import MetierError

TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(),
         "texts": pa.list_(pa.string()), "numbers": pa.list_(pa.float64())}  # fmt: skip


def look(seen: dict[str, dict[str, str]], columns: Row, place: str) -> None:
    """Notes the kinds of value of each column and where each stood first. Raises MetierError when prompts mix."""
    for name, value in columns.items():
        kinds = seen.setdefault(name, {})
        kind = _kind(value)
        if kind is not None and kind not in kinds:
            kinds[kind] = place
            if name == "prompt" and "text" in kinds and len(kinds) > 1:
                other = next((where for where in kinds.values() if where != place), "the same line")
                raise MetierError(f"{place}: one prompt is text and the other messages (as in {other}); "
                                  f"read them in two steps")  # fmt: skip


def _kind(value: Any) -> str | None:
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and v.keys() <= {"role", "content", "weight"} for v in value):
            return "weighted turns" if any("weight" in v for v in value) else "turns"
        if value and all(isinstance(v, float) for v in value):
            return "numbers"
        return "texts" if all(isinstance(v, str) for v in value) else "json"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "json"
    kinds: dict[type, str | None] = {
        type(None): None, bool: "bool", int: "int", float: "float", str: "text", dict: "json"
    }  # fmt: skip
    return kinds[type(value)]


def type_of(name: str, kinds: dict[str, str]) -> pa.DataType:
    if name in shapes.FORM and any(kind.endswith("turns") for kind in kinds):
        weight = {"weight": pa.float64()} if "weighted turns" in kinds else {}
        return pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), **weight}))
    if kinds.keys() == {"int", "float"}:
        return pa.float64()
    only = next(iter(kinds)) if len(kinds) == 1 else "text"
    return TYPES["text"] if only == "numbers" and name not in shapes.FORM else TYPES.get(only, pa.string())


def cell(value: Any, type_: pa.DataType) -> Any:
    if value is None or not pa.types.is_string(type_):
        return float(value) if isinstance(value, int) and pa.types.is_floating(type_) else value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
