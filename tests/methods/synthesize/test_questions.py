"""Questions about documents: every one has its source, repeats and misfits go with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from answering import Answering
from metier.artefacts import Records
from metier.data.ingest import invented
from metier.data.synthesize import questions
from metier.lm import load
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Work
from metier.worlds import facts
from metier.worlds.writer import Scripted

WORLD = facts.make(40)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    return tmp_path


def documents(place: Path, versions: int = 2) -> Records:
    return invented.read(versions=versions, work=Work(place / "ingest"))


def saying(text: str) -> Answering:
    return Answering(text, says=lambda question: text)


ONE = Records.from_rows([{"id": "a", "text": "The valve opens.", "split": "train",
                          "origin": {"file": "a.txt", "licence": "MIT", "page": 3}}])  # fmt: skip


def kept(work: Work) -> dict[str, object]:
    [row] = [row for row in work.rows() if row["event"] == "kept"]
    assert row["kept"] + sum(row["dropped"].values()) == row["read"]
    return row


def test_every_question_is_of_its_document_and_stands_once(place: Path) -> None:
    data, work = documents(place), Work(place / "w")
    made = list(questions.write(data, Scripted(WORLD, 0), per_record=3, work=work))
    titles = dict(zip(data.column("id"), data.column("title"), strict=True))
    asked = [row["prompt"][0]["content"] for row in made]
    assert len(set(asked)) == len(asked) == kept(work)["kept"]
    for row, question in zip(made, asked, strict=True):
        [step] = row["origin"]["lineage"]
        assert WORLD.by_question[question].subject == titles[step["parents"][0]] == row["title"]
        assert row["id"].startswith(f"{step['parents'][0]}/q")
        assert step["method"] == "data.synthesize.questions" and step["writer"] == Scripted(WORLD, 0).digest
        assert row["split"] == WORLD.by_question[question].split and "text" not in row
    repeats = [row for row in work.rows() if row.get("reason") == "repeats another"]
    assert repeats and all(row["like"] in {r["id"] for r in made} for row in repeats)
    assert kept(work)["read"] == 3 * len(data)


def test_the_share_that_misses_its_document_is_the_writers(place: Path) -> None:
    data = invented.read(entities=400, versions=1, work=Work(place / "i"))
    world = facts.make(400)
    titles, work = dict(zip(data.column("id"), data.column("title"), strict=True)), Work(place / "w")
    made = questions.write(data, Scripted(world, 0.3), work=work)
    written = [(row["id"], row["prompt"][0]["content"]) for row in made]
    written += [(row["id"], row["text"]) for row in work.rows() if row["event"] == "dropped"]
    missed = [world.by_question[text].subject != titles[name.rpartition("/")[0]] for name, text in written]
    assert len(missed) == 3 * 400 and abs(sum(missed) / 1200 - 0.3) < 0.04


def test_the_same_again_is_the_same_and_another_seed_another(place: Path) -> None:
    data, writer = documents(place), Scripted(WORLD, 0.2)
    one, two, other = (
        questions.write(data, writer, seed=s, work=Work(place / str(i))) for i, s in enumerate((0, 0, 1))
    )
    assert one.digest == two.digest != other.digest
    logs = [next(r for r in Work(place / str(i)).rows() if r["event"] == "asked") for i in (0, 1)]
    assert [row["calls"] for row in logs] == [len(data), 0]  # the second time nobody was asked


def test_misfits_go_with_a_reason(place: Path) -> None:
    listed = (
        "Here:\n1. What opens?\n2. What does the passage say about it?\n3. Why?\n4. What OPENS\n5. When does it open?\n"
        "6. Where does the valve stand?"
    )
    work = Work(place / "w")
    data = Records.from_rows([*ONE, {"id": "b", "text": "The valve opens."}, {"id": "c", "text": " "}])
    with pytest.raises(
        MetierError, match=r"no question is left of 1 records: {'too short': 2, 'more than asked for': 4}"
    ):
        questions.write(ONE, saying(listed.replace("2. What does the passage say about it", "2. So")), per_record=2,
                        work=Work(place / "v"))  # fmt: skip
    made = questions.write(data, saying(listed), per_record=5, work=work)
    assert [r["prompt"][0]["content"] for r in made] == ["When does it open?"]
    row = kept(work)
    assert row["dropped"] == {"no text": 1, "too short": 6, "speaks of its text": 2, "repeats another": 1,
                              "more than asked for": 2}  # fmt: skip
    assert made.column("origin")[0]["licence"] == "MIT"


def test_what_cannot_be_read_is_named(place: Path) -> None:
    work = Work(place / "w")
    with pytest.raises(MetierError, match=r"no question is left of 1 records: {'cannot be read': 1}"):
        questions.write(ONE, saying("I cannot do that."), work=work)
    assert [r["text"] for r in work.rows() if r["event"] == "dropped"] == ["no list in: I cannot do that."]
    made = questions.write(documents(place), Scripted(WORLD, 0, broken=0.3), work=work)
    assert 0.5 * 80 < len({r["origin"]["lineage"][0]["parents"][0] for r in made}) < 0.9 * 80


def test_the_writer_reads_the_request_and_the_text_up_to_its_length(place: Path) -> None:
    chat = saying("1. What opens the valve?")
    long = Records.from_rows([{"id": "a", "title": "Valves", "text": "one two three four " * 9}])
    questions.write(long, chat, prompt="{n} about {title}:", per_record=2, longest=20, work=Work(place / "w"))
    assert chat.conversations == [[{"role": "user", "content": "2 about Valves:\n\none two three four"}]]


def test_a_reply_that_breaks_off_loses_its_last_question(place: Path) -> None:
    reply = Reply("1. What opens the valve?\n2. How does the valve", 9, None, "length")
    assert list(questions.candidates(reply, 3)) == [
        ("What opens the valve?", None), ("How does the valve", "cut off")
    ]  # fmt: skip
    assert list(questions.candidates(Reply("no", 1, None, "stop", refused=True), 3)) == [("no", "refused")]


def test_nothing_to_ask_about_is_one_sentence(place: Path) -> None:
    for data in (Records.from_rows([]), Records.from_rows([{"id": "a", "text": " "}])):
        with pytest.raises(MetierError, match="has no text to ask about"):
            questions.write(data, saying("x"), work=Work(place / "w"))


def test_a_real_small_model_writes_some(place: Path, smollm2: object) -> None:
    text = "The heron is a large bird that stands in shallow water. It eats fish and frogs and nests in tall trees."
    data = Records.from_rows([{"id": "heron", "text": text}])
    chat = load.open(smollm2)
    work = Work(place / "w")
    made = questions.write(data, chat, per_record=2, max_tokens=48, temperature=0, work=work)
    assert 1 <= len(made) <= 2 and all(r["prompt"][0]["content"].endswith("?") for r in made)
    assert questions.write(data, chat, per_record=2, max_tokens=48, temperature=0, work=work).digest == made.digest
