"""The general-skills data and the rules that make sums, minimal pairs and forms."""

import re
from importlib.resources import files
from itertools import chain

import pytest

from metier.general.data import choice_items, prose, replay
from metier.general.rules import PHENOMENA, arithmetic, check_form, forms, minimal_pairs
from metier.options import MetierError

LICENCES = {"CC-BY-SA-2.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "public-domain"}


def thirteen_grams(rows):
    for row in rows:
        words = re.findall(r"\w+", row["text"].lower())
        yield from (tuple(words[i : i + 13]) for i in range(len(words) - 12))


def test_the_data_stay_small():
    assert sum(f.stat().st_size for f in files("metier").joinpath("general/files").iterdir()) <= 3_000_000


def test_choice_items_are_well_formed_and_enough():
    items = choice_items()
    assert len({i["id"] for i in items}) == len(items) == 689
    assert len({(i["question"], tuple(i["choices"])) for i in items}) == len(items)
    measures = [i["measure"] for i in items]
    assert {m: measures.count(m) for m in measures} == {"facts": 500, "movies": 120, "knowledge": 69}
    for item in items:
        assert 0 <= item["gold"] < len(item["choices"]) == len(set(item["choices"]))
        assert all(re.fullmatch(r" \S(.*\S)?", choice) for choice in item["choices"])
        assert item["question"] and not item["question"][-1].isspace()


@pytest.mark.parametrize(
    ("stem", "right"),
    [
        ("The capital of Republic of Texas is", " Austin"),
        ("The color of coal is", " black"),
        ("Question: What planet in our solar system is closest to the sun?\nAnswer:", " Mercury"),
    ],
)
def test_known_answers_are_gold(stem, right):
    item = next(i for i in choice_items() if i["question"] == stem)
    assert item["choices"][item["gold"]] == right


def test_the_right_answer_has_no_favourite_place():
    gold = [i["gold"] for i in choice_items() if i["measure"] == "facts"]
    assert all(90 <= gold.count(place) <= 160 for place in range(4))


def test_prose_and_replay_have_ids_licences_and_size():
    test, train = prose(), replay()
    for rows in (test, train):
        assert len({r["id"] for r in rows}) == len({r["text"] for r in rows}) == len(rows)
        assert {r["licence"] for r in rows} <= LICENCES and all(r["source"] for r in rows)
    assert len(test) == 120 and all(450 <= len(r["text"].encode()) <= 700 for r in test)
    assert sum(len(r["text"].encode()) for r in train) >= 1_200_000
    assert all(1000 <= len(r["text"].encode()) <= 8000 and r["text"].startswith("# ") for r in train)
    assert len({r["id"].split("/")[0] for r in test}) == len({r["id"].split("/")[0] for r in train}) == 5


def test_no_work_and_no_thirteen_words_are_in_both_prose_and_replay():
    assert not {r["source"] for r in prose()} & {r["source"] for r in replay()}
    assert not set(thirteen_grams(prose())) & set(thirteen_grams(replay()))


def test_no_markup_is_left_in_the_texts():
    for row in chain(prose(), replay()):
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<ref|</|&[a-z]+;|\( ?[,;)]", row["text"]), row["id"]


def test_arithmetic_is_right_and_different():
    items = arithmetic(400, 0)
    assert len({i["question"] for i in items}) == 400
    for item in items:
        a, sign, b = re.fullmatch(r"What is (\d+) (plus|times) (\d+)\? It is", item["question"]).groups()
        answer = int(a) + int(b) if sign == "plus" else int(a) * int(b)
        assert item["choices"][item["gold"]] == f" {answer}" and item["choices"].count(f" {answer}") == 1
        assert len(set(item["choices"])) == 4 and len(set(map(len, item["choices"]))) == 1


def test_minimal_pairs_differ_and_cover_every_phenomenon():
    items = minimal_pairs(400, 0)
    assert len({tuple(sorted(i["choices"])) for i in items}) == 400
    for name in PHENOMENA:
        assert sum(i["phenomenon"] == name for i in items) == 50
    for item in items:
        one, two = (sorted(re.findall(r"\w+", choice.lower())) for choice in item["choices"])
        assert item["choices"][0] != item["choices"][1] and len(one) == len(two)
        assert len(set(one) ^ set(two)) <= 2, item
    assert 160 <= sum(i["gold"] for i in items) <= 240


@pytest.mark.parametrize(
    "right",
    [
        "The keys near the cabinet are missing.",
        "The author that the teachers like is happy.",
        "The king who saw the queen hurt himself.",
        "The teacher sold these old keys.",
        "No author that the teacher knows has ever eaten the apple.",
        "The author has already eaten the apple.",
        "There is a big red key in the cabinet.",
        "Is the author who the teacher is calling happy?",
    ],
)
def test_the_grammatical_sentence_is_gold(right):
    pairs = [pair for make in PHENOMENA.values() for pair in make()]
    assert right in {good for good, _ in pairs} and right not in {bad for _, bad in pairs}


@pytest.mark.parametrize("make", [arithmetic, minimal_pairs, forms])
def test_rules_are_functions_of_n_and_seed(make):
    assert make(24, 1) == make(24, 1) != make(24, 2)
    assert len(make(24, 1)) == 24
    with pytest.raises(MetierError, match="'n' must be at most"):
        make(10**6, 0)


def test_forms_have_different_prompts_and_known_checks():
    prompts = forms(24, 0)
    assert len({p["prompt"] for p in prompts}) == 24
    assert {p["check"]["name"] for p in prompts} == {"words", "one_of", "lines", "json", "number"}
    assert all(check_form(p["check"], "", True)["form"] == 0.0 for p in prompts)


@pytest.mark.parametrize(
    ("check", "text", "form"),
    [
        ({"name": "words", "low": 1, "high": 1}, " Rome.\n", 1),
        ({"name": "words", "low": 1, "high": 1}, "It is Rome.", 0),
        ({"name": "words", "low": 3, "high": 15}, "Bread is made of flour.", 1),
        ({"name": "words", "low": 3, "high": 15}, "Bread is good.\nIt is made of flour.", 0),
        ({"name": "one_of", "words": ["yes", "no"]}, "Yes.", 1),
        ({"name": "one_of", "words": ["yes", "no"]}, "Yes, it is.", 0),
        ({"name": "lines", "count": 3}, "1. red\n2. blue\n\n3. green\n", 1),
        ({"name": "lines", "count": 3}, "red, blue, green", 0),
        ({"name": "number"}, "12.", 1),
        ({"name": "number"}, "-3.5", 1),
        ({"name": "number"}, "12 months", 0),
        ({"name": "json", "keys": ["colour"]}, '{"colour": "yellow"}', 1),
        ({"name": "json", "keys": ["colour"]}, '```json\n{"colour": "yellow"}\n```', 1),
        ({"name": "json", "keys": ["colour"]}, '{"color": "yellow"}', 0),
        ({"name": "json", "keys": ["colour"]}, "colour: yellow", 0),
        ({"name": "json", "keys": ["colour"]}, '["colour"]', 0),
    ],
)
def test_check_form(check, text, form):
    assert check_form(check, text, True) == {"stops": 1.0, "form": float(form)}
    assert check_form(check, text, False) == {"stops": 0.0, "form": float(form)}


def test_an_unknown_check_is_named():
    with pytest.raises(MetierError, match="unknown check 'rhyme'"):
        check_form({"name": "rhyme"}, "", True)
