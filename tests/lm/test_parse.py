"""What small models really write is read, and what cannot be read is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.lm import parse

TWO = ["What is a valve?", "Why does it rise?"]


@pytest.mark.parametrize(
    "text",
    [
        "1. What is a valve?\n2. Why does it rise?",
        "Sure! Here are two questions:\n\n1) What is a valve?\n\n2) Why does it rise?\n",
        "- What is a valve?\n* Why does it rise?",
        "**1.** **What is a valve?**\n**2.** Why does\n   it rise?",
        "Question 1: What is a valve?\nQuestion 2: \"Why does it rise?\"",
        "1. Question: What is a valve?\n2. Q: Why does it rise?",
        "What is a valve?\nWhy does it rise?",
        '["What is a valve?", "Why does it rise?"]',
        '```json\n["What is a valve?",\n "Why does it rise?"]\n```',
        'Here they are: [{"question": "What is a valve?"}, {"Question": "Why does it rise?", "answer": "x"}]',
        '{"questions": ["What is a valve?", "Why does it rise?"]}',
        '{"question": "What is a valve?"}\n{"question": "Why does it rise?"}',
        "Q: What is a valve?\nA: A gate.\nQ: Why does it rise?\nA: It rains.",
    ],
)  # fmt: skip
def test_a_list_in_any_form(text: str) -> None:
    assert parse.items(text) == (TWO, [])


def test_what_is_no_list_is_named() -> None:
    assert parse.items("I do not know.") == ([], ["no list in: I do not know."])
    assert parse.items("") == ([], ["no list in: "])
    assert parse.items("See [3] for more.").found == []
    cut = parse.items('["What is a valve?", "Why does it')
    assert cut.found == TWO[:1] and cut.unread == ['JSON breaks off at: "Why does it']
    assert parse.items('[{"x": 1}, {"q": "Why?"}]') == (["Why?"], ['not a text: {"x": 1}'])
    assert parse.items("1. What does [1] mean?\n2. And {x: 1}?").found == ["What does [1] mean?", "And {x: 1}?"]


@pytest.mark.parametrize(
    "text",
    [
        "Q: What is a valve?\nA: A gate.\n\nQ: Why does it rise?\nA: It\nrains.",
        "**Question 1:** What is a valve?\n**Answer:** A gate.\n**Q2:** Why does it rise?\n**A2:** It rains.",
        "1. Q: What is a valve?\n   A: A gate.\n2. Q: Why does it rise?\n   A: It rains.",
        'Sure:\n[{"question": "What is a valve?", "answer": "A gate."}, {"q": "Why does it rise?", "a": "It rains."}]',
        '{"instruction": "What is a valve?", "output": "A gate."}\n{"prompt": "Why does it rise?", "a": "It rains."}',
    ],
)
def test_pairs_in_any_form(text: str) -> None:
    assert parse.pairs(text) == ([("What is a valve?", "A gate."), ("Why does it rise?", "It rains.")], [])


def test_a_pair_with_a_half_missing_is_named() -> None:
    read = parse.pairs("A: early.\nQ: What is a valve?\nQ: Why?\nA: So.")
    assert read == ([("Why?", "So.")], ["question without an answer: What is a valve?"])
    assert parse.pairs("nothing here") == ([], ["no question in: nothing here"])
    assert parse.pairs("Q: Which?\nA) one\nB) two\nA: one").found == [("Which? A) one B) two", "one")]


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=3, max_size=20), min_size=1))
def test_a_json_list_comes_back_as_it_was(values: list[str]) -> None:
    assert parse.items(json.dumps(values)) == (values, [])
    numbered = "\n".join(f"{i}. {value}" for i, value in enumerate(values, 1))
    assert parse.items(numbered).found == values or any(v.lower().startswith(("q", "question", "a")) for v in values)


@given(st.text())
def test_any_text_is_read_or_named(text: str) -> None:
    for read in (parse.items(text), parse.pairs(text)):
        assert read.found or read.unread
        assert not any("\n" in reason for reason in read.unread)
