"""General skills made by rule: sums, grammatical minimal pairs, and prompts that ask for a form one can check.

Everything is a pure function of (n, seed). Items follow `data.choice_items`: {id, measure, question, choices,
gold}, to be scored by the total log-likelihood of each choice after the question.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from metier.options import MetierError

Item = dict[str, Any]
Pair = tuple[str, str]

PEOPLE = (
    "author",
    "teacher",
    "doctor",
    "farmer",
    "pilot",
    "lawyer",
    "singer",
    "painter",
    "driver",
    "manager",
    "student",
    "guard",
)
THINGS = (
    "key",
    "picture",
    "letter",
    "book",
    "report",
    "box",
    "bottle",
    "chair",
    "song",
    "ticket",
    "machine",
    "painting",
)
PLACES = (
    "cabinet",
    "garden",
    "museum",
    "village",
    "school",
    "window",
    "river",
    "table",
    "bridge",
    "station",
    "hotel",
    "tower",
)
MEN, WOMEN = ("king", "father", "uncle", "boy", "actor"), ("queen", "mother", "aunt", "girl", "actress")
STATES = ("old", "famous", "here", "expensive", "new", "missing", "popular", "safe")
MOODS = ("happy", "tired", "late", "famous", "rich", "ready", "young", "angry")
HARM = ("hurt", "blamed", "praised", "defended", "introduced", "surprised")
SEES = ("saw", "met", "helped", "followed", "remembered", "visited")
PARTICIPLES = (
    ("eaten", "ate", "the apple"),
    ("written", "wrote", "the letter"),
    ("taken", "took", "the bus"),
    ("broken", "broke", "the cup"),
    ("given", "gave", "a speech"),
    ("seen", "saw", "the film"),
    ("driven", "drove", "the car"),
    ("chosen", "chose", "a name"),
    ("begun", "began", "the work"),
    ("sung", "sang", "a song"),
    ("known", "knew", "the answer"),
    ("stolen", "stole", "the ring"),
)
SIZES, AGES = ("big", "small", "tall", "huge", "tiny"), ("red", "wooden", "French", "metal", "green", "plastic")


def arithmetic(n: int, seed: int) -> list[Item]:
    """`n` different sums and products as four choices; wrong answers are near and have as many digits.

    Raises: MetierError when more items are asked for than there are.
    """
    small = [(f"What is {a} plus {b}? It is", a + b) for a, b in product(range(2, 10), range(2, 10))]
    large = [(f"What is {a} plus {b}? It is", a + b) for a, b in product(range(11, 60), range(2, 10))]
    products = [(f"What is {a} times {b}? It is", a * b) for a, b in product(range(2, 13), range(2, 10))]
    rng, items = random.Random(seed), list[Item]()
    shuffled = [rng.sample(kind, len(kind)) for kind in (small, large, products)]
    for question, answer in _in_turn(shuffled, n, "arithmetic"):
        near = [answer + d for d in range(-7, 8) if d and answer + d > 0 and len(str(answer + d)) == len(str(answer))]
        choices = rng.sample([answer, *rng.sample(near, 3)], 4)
        items.append(_item("arithmetic", len(items), question, [f" {c}" for c in choices], choices.index(answer)))
    return items


def minimal_pairs(n: int, seed: int) -> list[Item]:
    """`n` different pairs of sentences, one of them grammatical, the phenomena in equal numbers.

    Raises: MetierError when more pairs are asked for than there are.
    """
    rng, items = random.Random(seed), list[Item]()
    shuffled = []
    for name, make in PHENOMENA.items():
        pairs = sorted(set(make()))
        shuffled.append([(name, pair) for pair in rng.sample(pairs, len(pairs))])
    for name, (right, wrong) in _in_turn(shuffled, n, "minimal_pairs"):
        gold = rng.randrange(2)
        # A line break, because a sentence straight after a chat model's BOS token is out of its distribution.
        item = _item("grammar", len(items), "\n", [wrong, right] if gold else [right, wrong], gold)
        items.append({**item, "phenomenon": name})
    return items


def _item(measure: str, number: int, question: str, choices: list[str], gold: int) -> Item:
    return {"id": f"{measure}/{number:03d}", "measure": measure, "question": question, "choices": choices, "gold": gold}


def _in_turn(groups: list[list[Any]], n: int, owner: str) -> Iterator[Any]:
    """`n` values: one of each group in turn, going on with the others when a group is used up."""
    if n > sum(map(len, groups)):
        raise MetierError(f"tasks.general.{owner}: 'n' must be at most {sum(map(len, groups))}, got {n}")
    order = [group[row] for row in range(max(map(len, groups))) for group in groups if row < len(group)]
    return iter(order[:n])


def _across_a_phrase() -> Iterator[Pair]:
    for thing, place, state, link in product(THINGS, PLACES, STATES, ("near", "behind")):
        yield f"The {thing} {link} the {place}s is {state}.", f"The {thing} {link} the {place}s are {state}."
        many = f"The {_many(thing)} {link} the {place}"
        yield f"{many} are {state}.", f"{many} is {state}."


def _across_a_clause() -> Iterator[Pair]:
    for who, other, mood in product(PEOPLE, PEOPLE, MOODS):
        if who != other:
            yield f"The {who} that the {other}s like is {mood}.", f"The {who} that the {other}s like are {mood}."
            yield f"The {who}s that the {other} likes are {mood}.", f"The {who}s that the {other} likes is {mood}."


def _reflexive() -> Iterator[Pair]:
    for man, woman, harm, sees in product(MEN, WOMEN, HARM, SEES):
        yield f"The {man} who {sees} the {woman} {harm} himself.", f"The {man} who {sees} the {woman} {harm} herself."
        yield f"The {woman} who {sees} the {man} {harm} herself.", f"The {woman} who {sees} the {man} {harm} himself."
    for who, other, harm, sees in product(PEOPLE, MEN + WOMEN, HARM, SEES):
        own = "himself" if other in MEN else "herself"
        start = f"The {who}s who {sees} the {other} {harm}"
        yield f"{start} themselves.", f"{start} {own}."


def _determiner() -> Iterator[Pair]:
    for who, sees, colour, thing in product(PEOPLE, ("sold", "found", "lost"), ("old", "green", "heavy"), THINGS):
        yield f"The {who} {sees} these {colour} {_many(thing)}.", f"The {who} {sees} this {colour} {_many(thing)}."
        yield f"The {who} {sees} that {colour} {thing}.", f"The {who} {sees} those {colour} {thing}."


def _polarity() -> Iterator[Pair]:
    for who, other, (participle, _, what) in product(PEOPLE, PEOPLE, PARTICIPLES):
        if who != other:
            yield (
                f"No {who} that the {other} knows has ever {participle} {what}.",
                f"The {who} that no {other} knows has ever {participle} {what}.",
            )


def _participle() -> Iterator[Pair]:
    for who, (participle, past, what), adverb in product(PEOPLE, PARTICIPLES, ("already", "never", "just")):
        yield f"The {who} has {adverb} {participle} {what}.", f"The {who} has {adverb} {past} {what}."


def _adjectives() -> Iterator[Pair]:
    for size, kind, thing, place in product(SIZES, AGES, THINGS, PLACES):
        yield f"There is a {size} {kind} {thing} in the {place}.", f"There is a {kind} {size} {thing} in the {place}."


def _question() -> Iterator[Pair]:
    for who, other, mood in product(PEOPLE, PEOPLE, MOODS):
        if who != other:
            yield f"Is the {who} who the {other} is calling {mood}?", f"Is the {who} who the {other} calling is {mood}?"


def _many(noun: str) -> str:
    return noun + ("es" if noun.endswith("x") else "s")


PHENOMENA: dict[str, Callable[[], Iterator[Pair]]] = {
    "agreement across a phrase": _across_a_phrase,
    "agreement across a clause": _across_a_clause,
    "reflexive": _reflexive,
    "determiner": _determiner,
    "negative polarity": _polarity,
    "participle": _participle,
    "order of adjectives": _adjectives,
    "order in a question": _question,
}


def forms(n: int, seed: int) -> list[Item]:
    """`n` different chat prompts {id, prompt, check} that ask for a form; `check_form` says whether a reply has it.

    Raises: MetierError when more prompts are asked for than there are.
    """
    rng = random.Random(seed)
    groups = [rng.sample(group, len(group)) for group in _form_groups()]
    return [
        {"id": f"forms/{number:03d}", "prompt": prompt, "check": check}
        for number, (prompt, check) in enumerate(_in_turn(groups, n, "forms"))
    ]


def _form_groups() -> list[list[tuple[str, Item]]]:
    facts = (
        "What is the capital of Italy?",
        "What colour is snow?",
        "Which animal barks?",
        "What is the opposite of hot?",
    )
    claims = ("Is the sun a star?", "Can a fish climb stairs?", "Is ice colder than steam?", "Do cows lay eggs?")
    kinds = ("fruits", "colours", "animals", "countries")
    topics = ("the sea", "a library", "winter", "bread")
    objects = (("the city Paris", "country"), ("a lemon", "colour"), ("a dog", "sound"), ("the book Hamlet", "author"))
    counts = (
        "How many days are in a week?",
        "How many legs has a spider?",
        "What is ten plus five?",
        "How many months has a year?",
    )
    return [
        [(f"Answer with one word only. {q}", {"name": "words", "low": 1, "high": 1}) for q in facts],
        [(f"Reply only with YES or NO. {q}", {"name": "one_of", "words": ["yes", "no"]}) for q in claims],
        [(f"List exactly three {k}, one per line, and nothing else.", {"name": "lines", "count": 3}) for k in kinds],
        [
            (f"Write one sentence of at most thirty words about {t}.", {"name": "words", "low": 3, "high": 30})
            for t in topics
        ],
        [
            (
                f'Describe {o} as a JSON object with the single key "{k}". Reply with the JSON only.',
                {"name": "json", "keys": [k]},
            )
            for o, k in objects
        ],
        [(f"Answer with a number in digits and nothing else. {q}", {"name": "number"}) for q in counts],
    ]


def check_form(check: Item, text: str, finished: bool) -> dict[str, float]:
    """{"stops": 1 if generation ended by itself, "form": 1 if `text` has the form that `check` asks for}.

    Case, surrounding blanks and a closing full stop do not matter; a code fence around JSON does not either.

    Raises: MetierError for an unknown check.
    """
    text = text.strip()
    plain = text.rstrip(".!").lower()
    match check["name"]:
        case "words":
            form = check["low"] <= len(text.split()) <= check["high"] and "\n" not in text
        case "one_of":
            form = plain in check["words"]
        case "lines":
            form = len([line for line in text.splitlines() if line.strip()]) == check["count"]
        case "number":
            form = re.fullmatch(r"-?\d+(\.\d+)?", plain) is not None
        case "json":
            form = _has_keys(re.sub(r"^```(?:json)?\s*|\s*```$", "", text), check["keys"])
        case name:
            raise MetierError(f"tasks.general.check_form: unknown check '{name}'")
    return {"stops": float(finished), "form": float(form)}


def _has_keys(text: str, keys: list[str]) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and sorted(value) == sorted(keys)
