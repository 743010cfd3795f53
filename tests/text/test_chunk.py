"""Chunks along the structure of a text, with exact places."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from metier.text.chunk import OVER, chunks, title

SENTENCE = "Every sentence here has exactly the same nine words. "


def test_headings_make_paths_and_open_their_chunk() -> None:
    body = SENTENCE * 6
    found = chunks(f"A\n***\n\nB\n===\n\n{body}\n\nC\n===\n\n{body}\n\nD\n***\n\n{body}\n", 1000)
    assert [c.heading for c in found] == ["A > B", "A > C", "D"]
    assert [c.text.split("\n")[0] for c in found] == ["A", "C", "D"]
    assert found[0].text.startswith("A\n\nB\n\nEvery")


def test_a_section_with_hardly_any_text_joins_its_sibling_but_not_its_uncle() -> None:
    text = f"# P\n\n## A\n\nshort\n\n## B\n\n{SENTENCE * 4}\n\n## C\n\nshort\n\n# Q\n\n{SENTENCE * 4}"
    assert [c.heading for c in chunks(text, 1000)] == ["P > A", "P > C", "Q"]


def test_long_paragraphs_end_at_sentences_and_code_stays_whole() -> None:
    code = "    " + "\n    ".join(f"x{i} = compute({i});" for i in range(20))
    found = chunks(f"{SENTENCE * 30}\n\n{code}\n\nAfter it comes more.", 600)
    assert all(c.text.endswith(".") for c in found)
    assert sum(code in c.text for c in found) == 1


def test_a_small_last_piece_joins_the_one_before() -> None:
    found = chunks(f"{SENTENCE * 10}\n\n{SENTENCE}", 540)
    assert len(found) == 1 and len(found[0].text) <= 540 * OVER


def test_title_is_the_highest_of_the_first_headings() -> None:
    assert title("intro\n\n## Sub\n\ntext\n\n# Main\n") == "Main"
    assert title("no heading at all") == ""


PARTS = st.lists(
    st.sampled_from(["# One", "## Two", "Three\n=====", SENTENCE.strip(), SENTENCE * 9, "- a\n- b\n  c",
                     "x = 1;\n  y = 2;",
                     "```\ncode\n\nmore\n```", "a ::= b\n    | c", "z" * 300, "文" * 120, "| a |\n|---|\n| b |"])
    | st.text("abc .\n-#", max_size=60),
    max_size=20,
)  # fmt: skip


@given(PARTS, st.integers(20, 400))
def test_chunks_lose_nothing_and_say_where_they_stand(parts: list[str], size: int) -> None:
    text = "\n\n".join(parts)
    found = chunks(text, size)
    at = 0
    for chunk in found:
        assert not text[at : chunk.start].strip()
        raw = text[chunk.start : chunk.end]
        assert raw.strip()
        assert _solid(chunk.text) == _solid(raw) or len(_solid(chunk.text)) < len(_solid(raw))
        assert _letters(chunk.text) == _letters(raw)
        assert chunk.end - chunk.start <= OVER * size + _headings(raw)
        at = chunk.end
    assert not text[at:].strip()


def _solid(text: str) -> str:
    return re.sub(r"\s", "", text)


def _letters(text: str) -> str:
    return re.sub(r"[^\w]", "", text)


def _headings(raw: str) -> int:
    """Headings go with the piece that follows, whatever the size."""
    return sum(len(line) + 4 for line in raw.split("\n") if len(line) < 130) + 4
