"""The right passage stands before the prompt; the text to be scored is never looked up; off is the bare chat."""

from __future__ import annotations

import pytest

from answering import Answering
from metier.artefacts import Model, Records
from metier.infer.context import passages
from metier.lm import load
from metier.lm.chat import Sampling
from metier.options import MetierError

DATA = Records.from_rows([
    {"id": "walrus", "text": "The walrus operator assigns a value inside an expression."},
    {"id": "yield", "text": "A yield expression suspends the generator."},
    {"id": "lambda", "text": "A lambda expression makes an anonymous function."},
])  # fmt: skip


def test_off_is_the_bare_chat() -> None:
    chat = Answering("bare")
    assert passages.wrap(chat, DATA, **passages.OFF) is chat


def test_the_passage_stands_before_the_prompt_and_the_text_stays() -> None:
    chat = Answering("bare")
    passages.wrap(chat, DATA).logprobs(["What suspends a generator?"], [" yield"])
    assert chat.asked == [("A yield expression suspends the generator.\n\nWhat suspends a generator?", " yield")]


def test_the_text_to_be_scored_is_never_the_query() -> None:
    chat = Answering("bare")
    wrapped = passages.wrap(chat, DATA)
    wrapped.logprobs(["nothing matches", "", "walrus"], [" walrus operator", "walrus", "lambda anonymous function"])
    assert [p for p, _ in chat.asked] == ["nothing matches", "", DATA.column("text")[0] + "\n\nwalrus"]


def test_a_reply_sees_the_passage_in_the_last_turn_and_names_its_source() -> None:
    chat = Answering("bare")
    talk = [{"role": "user", "content": "walrus?"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": "What does lambda make?"}]  # fmt: skip
    before = [dict(turn) for turn in talk]
    replies = passages.wrap(chat, DATA).reply([talk, [{"role": "user", "content": "hm"}]], Sampling(n=2))
    assert talk == before
    assert chat.conversations[0][:2] == before[:2]
    assert chat.conversations[0][2]["content"] == DATA.column("text")[2] + "\n\nWhat does lambda make?"
    assert [r.trace["sources"] for r in replies] == [["lambda"], ["lambda"], [], []]


def test_the_best_of_several_stands_last() -> None:
    chat = Answering("bare")
    passages.wrap(chat, DATA, top=2).logprobs(["yield expression"], [" x"])
    assert chat.asked[0][0].split("\n\n")[1:] == [DATA.column("text")[1], "yield expression"]


def test_long_passages_are_cut_between_words() -> None:
    assert passages.shortened("one two three", 8) == "one two"
    assert passages.shortened("one two three", 7) == "one two"
    assert passages.shortened("one two", 7) == "one two"
    assert passages.shortened("unbroken", 4) == "unbr"


def test_digest_and_access() -> None:
    chat = Answering("bare")
    found = {passages.wrap(chat, DATA).digest, passages.wrap(chat, DATA, top=2).digest, chat.digest,
             passages.wrap(chat, DATA, longest=9).digest, passages.wrap(chat, DATA.take([0, 1])).digest}  # fmt: skip
    assert len(found) == 5
    assert passages.wrap(chat, DATA).access == "logits"


def test_documents_without_text_are_an_error() -> None:
    with pytest.raises(MetierError, match="no text"):
        passages.wrap(Answering("bare"), Records.from_rows([{"id": "a", "text": " … "}]))


def test_what_the_window_does_not_hold_is_left_out_the_worst_first(toy: Model) -> None:
    rows = [{"id": f"p{i}", "text": "valve " * (40 - 3 * i) + "river " * (20 + 3 * i)} for i in range(10)]
    wrapped = passages.wrap(load.open(toy), Records.from_rows(rows), top=10)
    reply = wrapped.reply([[{"role": "user", "content": "valve"}]], Sampling(max_tokens=40))[0]
    assert 0 < len(reply.trace["sources"]) < 10 and reply.trace["sources"][0] == "p0"
    assert wrapped.logprobs(["valve"], [" open"])[0].tokens > 0
    bare = load.open(toy).logprobs(["valve"], [" open"], window=16)[0]
    assert wrapped.logprobs(["valve"], [" open"], window=16)[0].sum == pytest.approx(bare.sum, abs=1e-4)
