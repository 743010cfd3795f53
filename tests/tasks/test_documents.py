"""Held-out rows come from the test split alone, gaps are fair by their rules, train and dev stay plain chunks."""

from __future__ import annotations

import re
from pydoc_data.topics import topics
from types import SimpleNamespace

import pytest

from metier.artefacts import Records, Task
from metier.evaluate._ask import asked
from metier.options import MetierError
from metier.tasks import _cloze, _questions, documents
from metier.text import chunk as chunking

TEST = ("assignment", "comparisons", "calls", "execmodel", "typesfunctions", "booleans", "raise", "identifiers")
DEV, TRAIN = ("import", "with"), ("class", "function", "operator-summary", "exceptions", "numbers")


@pytest.fixture(scope="module")
def data() -> Records:
    """Topics of the language reference in chunks, a document a group, but two groups that share."""
    rows = []
    for split, names in (("test", TEST), ("dev", DEV), ("train", TRAIN)):
        for name in names:
            title = chunking.title(topics[name])
            for piece in chunking.chunks(topics[name]):
                rows.append({"id": f"{name}:{piece.start}", "document": name, "title": title, "heading": piece.heading,
                             "text": piece.text, "origin": {"file": name, "offset": piece.start}, "split": split,
                             "group": "shared" if name in ("booleans", "raise") else name})  # fmt: skip
    return Records.from_rows(rows)


@pytest.fixture(scope="module")
def task(data: Records) -> Task:
    return documents.make(data, bytes=10**6)


def test_train_and_dev_are_the_chunks_they_were(data: Records, task: Task) -> None:
    for split in ("train", "dev"):
        assert list(task.part(split)) == list(data.part(split))


def test_all_that_is_asked_is_of_the_test_split(data: Records, task: Task) -> None:
    texts = {documents.without_heading(c) for c in data.part("test")}
    rows = asked(task)
    assert {r["text"] for r in rows["bits_per_byte"]} == texts
    assert all(any(r["reference"] in t for t in texts) for r in rows["questions"])
    held_out = {c["id"] for c in data.part("test")}
    assert all(r["id"].split("/")[1] in held_out for m in rows.values() for r in m)


def test_the_heading_is_context_and_not_scored(task: Task) -> None:
    row = next(r for r in asked(task)["bits_per_byte"] if r["id"] == "read/raise:0")
    assert row["prompt"] == 'The "raise" statement\n\n'
    assert row["text"].startswith("raise_stmt ::=") or row["text"].lstrip().startswith("raise_stmt")


def test_headings_and_title_stand_once() -> None:
    row = {"title": "Guide", "heading": "Guide > Start > First steps", "text": "First steps\n\nOpen it."}
    assert documents.heading_lines(row) == "Guide\nStart\nFirst steps\n\n"
    assert documents.without_heading(row) == "Open it."
    assert documents.heading_lines(row | {"heading": "Start"}) == "Guide\nStart\n\n"
    assert documents.heading_lines({"title": "", "heading": None, "text": "x"}) == ""
    assert documents.without_heading({"heading": "Start", "text": "Start again, said he."}) == "Start again, said he."


def test_gaps_are_fair(data: Records, task: Task) -> None:
    chunks = {c["id"]: c for c in data.part("test")}
    documents_text = {}
    for c in chunks.values():
        documents_text[c["document"]] = documents_text.get(c["document"], "") + c["text"]
    gaps = asked(task)["cloze"]
    assert len(gaps) >= 30
    for gap in gaps:
        _, name, start = gap["id"].split("/")
        body, answer = documents.without_heading(chunks[name]), gap["choices"][gap["gold"]]
        assert body[int(start) - 1 :].startswith(answer)
        assert body[: int(start) - 1].endswith(gap["prompt"][-40:])
        assert len(set(gap["choices"])) == 4
        assert all(c.startswith(" ") and c[1:] in documents_text[chunks[name]["document"]] for c in gap["choices"])
        assert not any(re.search(rf"\b{c.strip()}\b", gap["prompt"]) for c in gap["choices"])
        assert len({c.strip()[0].isupper() for c in gap["choices"]}) == 1
        assert not gap["prompt"].endswith(" ")
    assert {g["gold"] for g in gaps} == {0, 1, 2, 3}


def test_a_form_of_the_answer_in_the_stem_gives_it_away() -> None:
    assert _cloze._holds("it was evaluated twice", "evaluates")
    assert _cloze._holds("Valves leak", "valve")
    assert not _cloze._holds("the devaluation", "valuation")


def test_groups_take_turns(data: Records) -> None:
    held_out = list(data.part("test"))
    turn = documents.in_turn(held_out, 0)
    assert len({c["group"] for c in turn[:7]}) == 7
    assert sorted(c["id"] for c in turn) == sorted(c["id"] for c in held_out)
    assert [c["id"] for c in documents.in_turn(held_out, 0)] == [c["id"] for c in turn]


def test_the_text_read_is_capped(data: Records) -> None:
    few = asked(documents.make(data, bytes=9000, cloze=0, questions=0))["bits_per_byte"]
    assert 4000 < sum(len(r["text"].encode()) for r in few) <= 9000
    assert len(asked(documents.make(data, bytes=1, cloze=0, questions=0))["bits_per_byte"]) == 1


def test_same_seed_same_task(data: Records, task: Task) -> None:
    assert documents.make(data, bytes=10**6).digest == task.digest
    assert documents.make(data, bytes=10**6, seed=1).digest != task.digest


def test_parts_can_be_left_out(data: Records) -> None:
    task = documents.make(data, cloze=0, questions=0)
    assert list(asked(task)) == ["bits_per_byte"]
    assert task.part("train").columns == data.columns


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("A generator is a function which returns an iterator.", "What is a generator?"),
        ("The “walrus” operator means assignment within an expression.", "What does the “walrus” operator mean?"),
        ("Methods are functions that are called using the attribute notation.", "What are Methods?"),
        ("It is a function which returns an iterator of things.", None),
        ("Code blocks are used to group statements into one.", "What are Code blocks?"),
        ("A call always returns some value, unless it raises.", None),
        ("The bounds are clipped to lie between zero and the length.", None),
        ("The semantics of a slicing are as follows for all the types.", None),
    ],
)
def test_questions_come_from_definitions(text: str, question: str | None) -> None:
    row = {"id": "c", "document": "d", "group": "g", "title": "", "heading": "", "text": text}
    assert [q["prompt"] for q in _questions.items([row], 3, body=documents.without_heading)] == (
        [question] if question else []
    )


def test_words_in_common() -> None:
    assert documents.token_f1("The cat sat", "the cat!") == pytest.approx(0.8)
    assert documents.token_f1("", "the cat") == documents.token_f1("dog", "the cat") == 0
    row = {"reference": "a function which returns"}
    assert documents.grade([row], [SimpleNamespace(text="A function, which returns.")]) == [{"questions": 1}]


def test_without_a_test_split_there_is_a_sentence() -> None:
    with pytest.raises(MetierError, match="no split 'test'"):
        documents.make(Records.from_rows([{"id": "a", "text": "x", "split": "train"}]))
