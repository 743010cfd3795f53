"""The general-skills data that travel with metier (`files/`; its README says where each comes from)."""

import gzip
import json
from functools import cache
from importlib.resources import files
from typing import Any

Row = dict[str, Any]


def choice_items() -> list[Row]:
    """Multiple choice: {id, measure, question, choices (with their leading space), gold (index of the right one)}."""
    return _rows("choice.jsonl.gz")


def prose() -> list[Row]:
    """General English for bits per byte, never to train on: {id, text, source, licence}, texts of 450 to 700 bytes."""
    return _rows("prose_test.jsonl.gz")


def replay() -> list[Row]:
    """General English to train on (replay, control arm): {id, text, source, licence}, documents of 1 to 8 kB."""
    return _rows("replay.jsonl.gz")


def _rows(name: str) -> list[Row]:
    # Not splitlines(): that would also cut at the line separators which JSON leaves as they are inside a text.
    return [json.loads(line) for line in _text(name).split("\n") if line]


@cache
def _text(name: str) -> str:
    return gzip.decompress((files("metier") / "general" / "files" / name).read_bytes()).decode("utf-8")
