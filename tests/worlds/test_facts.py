"""The invented country: the same from the same seed, split without leak, its questions fair."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from metier import recipe, runner
from metier.options import MetierError
from metier.store import Store
from metier.worlds import facts


def test_the_same_seed_gives_the_same_country_and_another_seed_another_one() -> None:
    assert facts.make(seed=3).facts == facts.make(seed=3).facts
    assert facts.make(seed=3).digest == facts.make(seed=3).digest != facts.make(seed=4).digest
    assert not set(facts.make(seed=3).entities()) & set(facts.make(seed=4).entities())


def test_every_statement_and_question_means_one_fact() -> None:
    world = facts.make(200)
    assert len(world.by_statement) == len(world.by_question) == facts.PHRASINGS * len(world.facts)
    assert all(len(r.statements) == len(r.questions) == facts.PHRASINGS for r in facts.RELATIONS)
    assert len({f.id for f in world.facts}) == len(world.facts)


def test_no_train_document_tells_a_test_fact() -> None:
    world = facts.make(120, test=0.25)
    split = {f.subject: f.split for f in world.facts}
    assert Counter(split.values()) == {"train": 88, "test": 32}  # of each kind 30, of which round(7.5) = 8
    documents = world.documents(facts.PHRASINGS)
    told = " ".join(d["text"] for d in documents if d["split"] == "train")
    assert not [s for f in world.facts if f.split == "test" for s in f.statements if s in told]
    assert {d["split"] for d in documents if d["title"] in split} == {"train", "test"}


def test_a_document_tells_every_fact_of_its_entity_once_and_versions_differ() -> None:
    world = facts.make(40)
    for document in world.documents(3):
        told = [f for s, f in world.by_statement.items() if s in document["text"]]
        assert Counter(f.id for f in told) == Counter(f.id for f in world.entities()[document["title"]])
    assert len({d["text"] for d in world.documents(3)}) == 3 * 40


def test_choices_hold_the_truth_once_at_no_favourite_place() -> None:
    rows = facts.make(400).questions()
    assert all(r["choices"][r["gold"]] == r["completion"] and len(set(r["choices"])) == 4 for r in rows)
    places = Counter(r["gold"] for r in rows)
    assert all(abs(places[i] / len(rows) - 0.25) < 0.04 for i in range(4))
    assert Counter(r["phrasing"] for r in rows) == {"train": len(rows) * 2 // 3, "test": len(rows) // 3}


def test_the_smallest_country_has_its_wrong_answers_too() -> None:
    world = facts.make(1)
    assert len(world.entities()) == 4 and {len({f.value, *f.wrong}) for f in world.facts} == {4}


def test_more_versions_than_phrasings_are_refused() -> None:
    with pytest.raises(MetierError, match="'versions' must be at most 3, got 4"):
        recipe.check(recipe.parse("c: {use: data.ingest.invented, versions: 4}"))


RECIPE = """
country: {use: data.ingest.invented, entities: 24, versions: 3}
asked: {use: data.ingest.invented, kind: questions, entities: 24, phrasing: test}
writer: {use: scripted, errors: 0, entities: 24}
questions: {use: data.synthesize.questions, data: $country.train, writer: $writer, per_record: 2}
answers: {use: data.answer.writer, data: $questions, writer: $writer, passages: $country}
exam: {use: data.answer.writer, data: $asked, writer: {use: scripted, errors: 1, entities: 24}}
"""


def test_a_recipe_goes_from_the_country_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    done = runner.run(recipe.check(recipe.parse(RECIPE)), Store(tmp_path))
    world = facts.make(24)
    answers = list(done["answers"].open())
    assert len(answers) > 40 and {a["split"] for a in answers} == {"train"}
    for answer in answers:
        question, reply = (turn["content"] for turn in answer["messages"])
        assert reply == f"{world.by_question[question].value}."
        assert world.by_question[question].subject == answer["title"]
    exam = done["exam"].open()
    assert set(exam.column("phrasing")) == {"test"}
    assert not [row for row in exam if row["messages"][-1]["content"] == f"{row['choices'][row['gold']]}."]
    again = runner.run(recipe.check(recipe.parse(RECIPE)), Store(tmp_path))
    assert all(step.cached for name, step in again.items() if name != "writer")
