"""An invented country whose every fact is known: towns, people, works and engines, with numbers and relations.

Nothing of it can be in any pre-training: names and values are drawn from a seed. The facts are data; documents and
questions are written from them in several phrasings. Facts are split by entity, so what is told of a train entity never
tells a test fact; one phrasing of each question is kept for asking what was learnt in words that were not trained on.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import Literal

from metier.disk import json_text, text_digest
from metier.records import Row

Split = Literal["train", "test"]
KINDS = ("town", "person", "works", "engine")
WRONG = 3  # wrong choices of a fact
# fmt: off
STARTS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "kr", "l", "m", "n", "p", "pr", "r", "s", "t", "tr", "v",
          "vr", "z", "zh")
VOWELS = ("a", "e", "i", "o", "u", "ae", "ou", "ui")
ENDS = ("l", "n", "r", "s", "th", "x", "lk", "mf", "nd", "rv", "sk", "zt")
SUFFIXES = {"town": ("", "by", "mere"), "person": ("",), "works": (" Works",), "engine": ("-1", "-4", "-7")}
METALS = ("copper", "tin", "zinc", "nickel", "cobalt", "bronze", "brass", "pewter")
TRADES = ("glassblower", "surveyor", "miller", "weaver", "bookbinder", "cooper", "beekeeper", "chandler")
# fmt: on
Values = str | tuple[str, ...] | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Relation:
    """What may be said of a kind of entity. The last question is the phrasing kept for testing."""

    kind: str
    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    among: Values  # a kind of entity, words, or the range of a number


RELATIONS = (
    Relation("town", "river", ("{s} lies on the river {v}.", "The river {v} runs through {s}.",
                               "Through the middle of {s} flows the {v}."),
             ("On which river does {s} lie?", "Which river runs through {s}?", "What is the river of {s} called?"),
             "river"),
    Relation("town", "founded", ("{s} was founded in {v}.", "The first stone of {s} was laid in {v}.",
                                 "The charter of {s} dates from {v}."),
             ("When was {s} founded?", "In which year was {s} founded?", "From which year does {s} date?"),
             (1103, 1698)),
    Relation("town", "inhabitants", ("{s} has {v} inhabitants.", "The last census of {s} counted {v} people.",
                                     "In {s} live {v} people."),
             ("How many inhabitants does {s} have?", "How many people live in {s}?", "What is the population of {s}?"),
             (1021, 98989)),
    Relation("person", "birthplace", ("{s} was born in {v}.", "The birthplace of {s} is {v}.",
                                      "{s} came into the world in {v}."),
             ("Where was {s} born?", "In which town was {s} born?", "What is the birthplace of {s}?"), "town"),
    Relation("person", "birth", ("The year of birth of {s} is {v}.", "The registers give {v} as the birth year of {s}.",
                                 "{s} is a child of the year {v}."),
             ("When was {s} born?", "In which year was {s} born?", "What is the year of birth of {s}?"), (1702, 1899)),
    Relation("person", "trade", ("{s} worked as a {v}.", "By trade {s} was a {v}.", "{s} earned a living as a {v}."),
             ("What was the trade of {s}?", "As what did {s} work?", "How did {s} earn a living?"), TRADES),
    Relation("works", "seat", ("{s} has its seat in {v}.", "The halls of {s} stand in {v}.",
                               "{s} is a company of {v}."),
             ("Where does {s} have its seat?", "In which town is {s}?", "Where do the halls of {s} stand?"), "town"),
    Relation("works", "head", ("{s} is led by {v}.", "The head of {s} is {v}.", "{v} directs {s}."),
             ("Who leads {s}?", "Who is the head of {s}?", "By whom is {s} directed?"), "person"),
    Relation("works", "staff", ("{s} employs {v} people.", "The staff of {s} numbers {v}.", "{v} people work at {s}."),
             ("How many people does {s} employ?", "How large is the staff of {s}?", "How many people work at {s}?"),
             (12, 4890)),
    Relation("engine", "maker", ("The engine {s} is made by {v}.", "{v} builds the engine {s}.",
                                 "The engine {s} comes from {v}."),
             ("Who makes the engine {s}?", "Which company builds the engine {s}?",
              "Where does the engine {s} come from?"), "works"),
    Relation("engine", "inventor", ("The engine {s} was invented by {v}.", "{v} invented the engine {s}.",
                                    "The engine {s} goes back to an idea of {v}."),
             ("Who invented the engine {s}?", "By whom was the engine {s} invented?",
              "To whose idea does the engine {s} go back?"), "person"),
    Relation("engine", "metal", ("The boiler of the engine {s} is of {v}.", "The engine {s} has a boiler made of {v}.",
                                 "For the boiler of the engine {s} {v} is used."),
             ("Of which metal is the boiler of the engine {s}?", "What is the boiler of the engine {s} made of?",
              "Which metal is used for the boiler of the engine {s}?"), METALS),
    Relation("engine", "weight", ("The engine {s} weighs {v} kilograms.",
                                  "The weight of the engine {s} is {v} kilograms.",
                                  "On the scales the engine {s} shows {v} kilograms."),
             ("How many kilograms does the engine {s} weigh?", "What is the weight of the engine {s} in kilograms?",
              "How heavy is the engine {s} in kilograms?"), (31, 9740)),
)  # fmt: skip
PHRASINGS = 3


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something true of an entity, and what would be wrong in its place."""

    id: str
    subject: str
    relation: Relation
    value: str
    wrong: tuple[str, ...]
    split: Split

    @property
    def statements(self) -> list[str]:
        return [text.format(s=self.subject, v=self.value) for text in self.relation.statements]

    @property
    def questions(self) -> list[str]:
        return [text.format(s=self.subject) for text in self.relation.questions]


@dataclasses.dataclass(frozen=True)
class World:
    """Every fact of the country, in a fixed order."""

    facts: tuple[Fact, ...]
    seed: int

    @functools.cached_property
    def digest(self) -> str:
        return text_digest(*(json_text(dataclasses.asdict(fact)) for fact in self.facts))

    @functools.cached_property
    def by_statement(self) -> dict[str, Fact]:
        return {text: fact for fact in self.facts for text in fact.statements}

    @functools.cached_property
    def by_question(self) -> dict[str, Fact]:
        return {text: fact for fact in self.facts for text in fact.questions}

    def entities(self) -> dict[str, list[Fact]]:
        found: dict[str, list[Fact]] = {}
        for fact in self.facts:
            found.setdefault(fact.subject, []).append(fact)
        return found

    def documents(self, versions: int) -> list[Row]:
        """Records about each entity: all its facts, each version in other sentences and another order."""
        rows = []
        for name, facts in self.entities().items():
            for k in range(versions):
                order = random.Random(f"{self.seed}:{name}:{k}").sample(facts, len(facts))
                sentences = [fact.statements[(k + j % 2) % PHRASINGS] for j, fact in enumerate(order)]
                document = f"{_id(name)}-{k + 1}"
                rows.append({"id": document, "document": document, "title": name, "heading": "",
                             "text": " ".join(sentences), "split": facts[0].split, "group": _id(name),
                             "origin": _origin(document)})  # fmt: skip
        return rows

    def questions(self) -> list[Row]:
        """Records: every question in every phrasing, with the true answer among wrong ones.

        ``phrasing`` is *test* for the one that is kept for testing.
        """
        rows = []
        for fact in self.facts:
            choices = sorted((fact.value, *fact.wrong))
            random.Random(f"{self.seed}:{fact.id}").shuffle(choices)
            for k, question in enumerate(fact.questions):
                rows.append({
                    "id": f"{fact.id}?{k + 1}", "prompt": [{"role": "user", "content": question}],
                    "completion": fact.value, "choices": choices, "gold": choices.index(fact.value), "fact": fact.id,
                    "subject": fact.subject, "relation": fact.relation.name,
                    "phrasing": "test" if k + 1 == PHRASINGS else "train", "split": fact.split,
                    "group": _id(fact.subject), "origin": _origin(fact.id),
                })  # fmt: skip
        return rows


def make(entities: int = 40, test: float = 0.25, seed: int = 0) -> World:
    """A quarter of the entities (rounded up) is of each kind; of each kind the share ``test`` is held out."""
    draw = random.Random(f"world:{seed}")
    each = math.ceil(entities / len(KINDS))
    taken: set[str] = set()
    # In a small country some names are only ever wrong answers.
    names = {kind: [_name(draw, kind, taken) for _ in range(max(each, 1 + WRONG))] for kind in (*KINDS, "river")}
    facts: list[Fact] = []
    for kind in KINDS:
        held_out = set(draw.sample(names[kind][:each], round(each * test)))
        for subject in names[kind][:each]:
            for relation in (r for r in RELATIONS if r.kind == kind):
                value, *wrong = _values(draw, relation.among, names)
                split: Split = "test" if subject in held_out else "train"
                facts.append(Fact(f"{_id(subject)}/{relation.name}", subject, relation, value, tuple(wrong), split))
    return World(tuple(facts), seed)


def _values(draw: random.Random, among: Values, names: dict[str, list[str]]) -> list[str]:
    """The true value and the wrong ones, all different."""
    if isinstance(among, str):
        return draw.sample(names[among], 1 + WRONG)
    low, high = among[0], among[-1]
    if isinstance(low, int) and isinstance(high, int):
        return [str(n) for n in draw.sample(range(low, high + 1), 1 + WRONG)]
    return draw.sample([str(word) for word in among], 1 + WRONG)


def _name(draw: random.Random, kind: str, taken: set[str]) -> str:
    """A name that is no other's; people have two."""
    while True:
        name = _word(draw) + draw.choice(SUFFIXES.get(kind, ("",)))
        name = f"{name} {_word(draw)}" if kind == "person" else name
        if name not in taken:
            taken.add(name)
            return name


def _word(draw: random.Random) -> str:
    syllables = [draw.choice(STARTS) + draw.choice(VOWELS) for _ in range(2)]
    return ("".join(syllables) + draw.choice(ENDS)).capitalize()


def _origin(file: str) -> Row:
    return {"file": file, "page": None, "line": None, "offset": 0, "kind": "invented", "licence": "CC0-1.0"}


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")
