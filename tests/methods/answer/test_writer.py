"""Answers with a column that says how sure: agreement tells right from wrong where errors are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from answering import Answering
from metier.artefacts import Records, Row
from metier.data.answer import writer as answer
from metier.data.ingest import invented
from metier.lm import load
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Work
from metier.worlds import facts
from metier.worlds.writer import Scripted

WORLD = facts.make(100)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def exam(place: Path) -> Records:
    return invented.read(kind="questions", entities=100, phrasing="test", work=Work(place / "exam"))


def right(row: Row) -> bool:
    return row["messages"][-1]["content"] == f"{row['choices'][row['gold']]}."


@pytest.mark.parametrize("errors", [0.0, 0.2, 0.5])
def test_one_answer_is_wrong_as_often_as_the_writer(place: Path, exam: Records, errors: float) -> None:
    made = list(answer.write(exam, Scripted(WORLD, errors), work=Work(place / "w")))
    n = len(exam)
    assert len(made) == n == 325
    assert abs(np.mean([not right(r) for r in made]) - errors) <= 3 * math.sqrt(errors * (1 - errors) / n)
    assert {r["confidence"] for r in made} == {None}
    assert [r["id"] for r in made] == exam.column("id")


def test_agreement_follows_the_error_rate_and_tells_right_from_wrong(place: Path, exam: Records) -> None:
    sure = []
    for errors in (0.0, 0.2, 0.5):
        made = list(answer.write(exam, Scripted(WORLD, errors), samples=5, temperature=1.0, work=Work(place / "w")))
        confidence, hit = np.array([r["confidence"] for r in made]), np.array([right(r) for r in made])
        sure.append(confidence.mean())
        assert hit.mean() >= 1 - errors  # a majority is right more often than one answer
        if errors:
            assert confidence[hit].mean() > confidence[~hit].mean() + 0.15
            assert np.corrcoef(confidence, hit)[0, 1] > 0.2
    assert sure[0] == 1.0 > sure[1] > sure[2]


def test_the_answer_most_like_the_others_is_chosen() -> None:
    replies = [Reply(text, 2, None, "stop") for text in ("Tin.", "Zinc.", "zinc", "It is zinc", "Tin")]
    best, confidence = answer.chosen(replies)
    assert best.text == "Zinc." and confidence == pytest.approx((1 + 0.5) / 4)
    assert answer.chosen([Reply("a b", 2, None, "stop"), Reply("c", 1, None, "stop")])[0].text == "a b"


def test_one_sample_is_as_sure_as_the_writer_says() -> None:
    assert answer.chosen([Reply("x", 4, -2.0, "stop")])[1] == pytest.approx(math.exp(-0.5))
    assert answer.chosen([Reply("x", 4, -2.0, "stop", confidence=0.9)])[1] == 0.9
    assert answer.chosen([Reply("x", 4, None, "stop")])[1] is None


def test_the_writer_sees_the_passage_and_the_record_does_not(place: Path) -> None:
    passages = Records.from_rows([{"id": "p", "text": "The valve is of tin and of zinc."}])
    lineage = [{"method": "m", "writer": "w", "parents": ["p"]}]
    data = Records.from_rows([
        {"id": "q", "group": "g", "prompt": [{"role": "user", "content": "Of what?"}],
         "origin": {"licence": "MIT", "lineage": lineage}},
        {"id": "r", "prompt": [{"role": "user", "content": "Why?"}], "origin": {"licence": "MIT", "lineage": []}},
    ])  # fmt: skip
    chat, work = Answering("chat", says=lambda question: " tin "), Work(place / "w")
    [row] = answer.write(data, chat, passages, system="Be brief.", longest=19, work=work)
    assert chat.conversations == [[{"role": "system", "content": "Be brief."},
                                   {"role": "user", "content": "The valve is of tin\n\nOf what?"}]]  # fmt: skip
    assert row["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Of what?"},
                               {"role": "assistant", "content": "tin"}]  # fmt: skip
    step = {"method": "data.answer.writer", "writer": "chat", "parents": ["q"]}
    assert row["origin"] == {"licence": "MIT", "lineage": [*lineage, step]} and row["group"] == "g"
    assert [r for r in work.rows() if r["event"] == "kept"] == [
        {"event": "kept", "read": 2, "kept": 1, "dropped": {"no passage": 1}}
    ]  # fmt: skip


def test_every_form_of_prompt_is_answered() -> None:
    user, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert answer.prompt_of({"prompt": "a"}) == [user]
    assert answer.prompt_of({"prompt": [user]}) == [user]
    assert answer.prompt_of({"messages": [user, said]}) == [user]  # the old answer makes room
    assert answer.prompt_of({"messages": [user, said, user]}) == [user, said, user]
    assert answer.prompt_of({"text": "a"}) == answer.prompt_of({"messages": [said]}) == []


def test_what_is_cut_off_refused_or_empty_goes_with_a_reason(place: Path) -> None:
    replies = {"a": Reply("half", 3, None, "length"), "b": Reply("no", 1, None, "stop", refused=True),
               "c": Reply(" ", 1, None, "stop"), "d": Reply("fine", 1, None, "stop")}  # fmt: skip

    class Mixed(Answering):
        def reply(self, conversations, sampling=None, advance=None):  # type: ignore[no-untyped-def]
            return [replies[c[-1]["content"]] for c in conversations]

    data, work = Records.from_rows([{"id": i, "prompt": i} for i in "abcd"]), Work(place / "w")
    [row] = answer.write(data, Mixed("mixed"), work=work)
    assert row["id"] == "d"
    [kept] = [r for r in work.rows() if r["event"] == "kept"]
    assert kept == {"event": "kept", "read": 4, "kept": 1, "dropped": {"cut off": 1, "refused": 1, "no answer": 1}}
    with pytest.raises(
        MetierError, match=r"no answer is left of 3 records: {'cut off': 1, 'refused': 1, 'no answer': 1}"
    ):
        answer.write(data.take([0, 1, 2]), Mixed("mixed"), work=Work(place / "v"))


def test_bad_input_is_one_sentence(place: Path, exam: Records) -> None:
    with pytest.raises(MetierError, match="'samples' above 1 needs a 'temperature' above 0"):
        answer.write(exam, Answering("a"), samples=2, work=Work(place / "w"))
    for data in (Records.from_rows([]), Records.from_rows([{"id": "a", "text": "x"}])):
        with pytest.raises(MetierError, match="there is no prompt to answer"):
            answer.write(data, Answering("a"), work=Work(place / "w"))


def test_a_real_small_model_answers(place: Path, smollm2: object) -> None:
    prompts = ["What is the capital of France? Answer in one word.", "How many legs has a cat? Answer in one word."]
    data = Records.from_rows([{"id": str(i), "prompt": p} for i, p in enumerate(prompts)])
    chat = load.open(smollm2)
    made = list(answer.write(data, chat, max_tokens=40, work=Work(place / "w")))
    assert made and "Paris" in made[0]["messages"][-1]["content"]
    assert all(0 < row["confidence"] <= 1 for row in made)
