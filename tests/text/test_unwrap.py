"""Blocks of a text, and which of them are joined to paragraphs."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.text.unwrap import blocks, render, unwrap, vocabulary

PAGE = """\
The "if" statement
==================

The "if" statement is used for conditional execution, and it is wrapped
at about seventy-two columns as most plain text is, so that the lines are
nearly full.

   if_stmt ::= "if" assignment_expression ":" suite
               ["else" ":" suite]

* the first item of a list, which is long enough to be wrapped into a
  second line
* the second

Details
-------

   for x in range(10):
       print(x)

   print("done")

| a | b |
|---|---|
| 1 | 2 |
"""


def test_wrapped_prose_is_joined_and_everything_else_keeps_its_lines() -> None:
    assert unwrap(PAGE) == (
        'The "if" statement\n\n'
        'The "if" statement is used for conditional execution, and it is wrapped at about seventy-two columns as most '
        "plain text is, so that the lines are nearly full.\n\n"
        '   if_stmt ::= "if" assignment_expression ":" suite\n               ["else" ":" suite]\n\n'
        "* the first item of a list, which is long enough to be wrapped into a second line\n* the second\n\n"
        "Details\n\n"
        '   for x in range(10):\n       print(x)\n\n   print("done")\n\n'
        "| a | b |\n|---|---|\n| 1 | 2 |"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# A\n\n### B\n", [(1, "A"), (3, "B")]),
        ("A\n***\n\nB\n===\n\nC\n===\n\nD\n***\n", [(1, "A"), (2, "B"), (2, "C"), (1, "D")]),
        ("===\n A\n===\n".replace(" A", "A"), [(1, "A")]),
        ("A\n===\n\nB\n---\n\n### C\n", [(1, "A"), (2, "B"), (3, "C")]),
        ("LS(1)\n\nNAME\n       ls - list\n\nSEE ALSO\n       dir(1)\n", [(1, "NAME"), (1, "SEE ALSO")]),
        ("a paragraph\nof two lines\n# no heading: it is inside\n", []),
        ("EAGAIN\n    Try again.\n", []),
        ("```\n# a comment\n```\n", []),
    ],
)
def test_headings(text: str, found: list[tuple[int, str]]) -> None:
    assert [(b.level, b.title) for b in blocks(text) if b.kind == "heading"] == found


def test_verse_and_addresses_keep_their_lines() -> None:
    verse = "Roses are red,\nviolets are blue,\nsugar is sweet,\nand so are you."
    assert unwrap(f"{'word ' * 14}\n{'word ' * 14}\nend.\n\n{verse}").endswith(verse)


@pytest.mark.parametrize(
    ("text", "typeset", "joined"),
    [
        ("the con-\ntrol group; control", False, "the control group; control"),
        ("the built-\nin one; a built-in", True, "the built-in one; a built-in"),
        ("the built-\nin one", False, "the built-in one"),
        ("the com-\npiler", True, "the compiler"),
        ("the com\u00ad\npiler", False, "the compiler"),
        ("the sig\u2010\nnals", False, "the signals"),
        ("Anglo-\nSaxon", True, "Anglo-Saxon"),
        ("pages 3 -\n4", True, "pages 3 - 4"),
    ],
)
def test_hyphens_at_line_ends(text: str, typeset: bool, joined: str) -> None:
    assert render("prose", text, vocabulary(text), typeset) == joined


LINES = st.lists(
    st.sampled_from(["", "", "# H", "Title", "=====", "*****", "- item", "  1. one", "    code = f(x);", ">>> 1 + 1",
                     "```", "| a | b |", "a ::= b", "NAME", "       indented as in a manual page"])
    | st.text("ab -\t.#=|é文", max_size=90),
    max_size=40,
)  # fmt: skip


@given(LINES)
def test_blocks_hold_every_character_once_and_joining_loses_none(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = blocks(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    gaps = "".join(text[a:b] for a, b in zip([0, *(b.end for b in found)], [*(b.start for b in found), len(text)],
                                             strict=True))  # fmt: skip
    assert not gaps.strip()
    for block in found:
        raw = text[block.start : block.end]
        if block.kind != "heading" and "\u2010" not in raw:
            assert _solid(render(block.kind, raw)) == _solid(raw)


def _solid(text: str) -> str:
    return re.sub(r"\s", "", text)
