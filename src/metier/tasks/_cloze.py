"""Gaps in held-out text, made by rule: four words of one document, of which one belongs into the gap.

A gap is fair when the text before it does not hold the answer, and when all four words are of the same document, about
as frequent in the field, of the same shape, and could stand there by grammar: each follows, somewhere in the field, the
word before the gap, but none of the wrong ones follows the two words before it. And the words of the sentence so far
must be about as close to the answer, in the rest of the held-out text, as to any wrong one.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from metier.artefacts import Row
from metier.general import data

STEM = 300  # characters before the gap, about 70 tokens
LEAST_LEAD = -0.25  # sentences in common by which a wrong word may lead
LEAST_WORDS = 5  # of the gap's own sentence, before it
BAND = (0.25, 4.0)  # how often a wrong word stands in the document, in times of the answer
APART = 120  # characters between two gaps of one chunk
COMMON = 400  # words of general English that are too common to ask for
WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
GAP = re.compile(r"(?<=[^\W\d_] )[^\W\d_]{4,}(?=[ ,.;:)?!\n])")
ENDINGS = ("ing", "ed", "ly", "tion", "sion", "ment", "ness", "able", "ible", "ous", "ive", "al", "er", "or", "s")


def items(
    chunks: list[Row], count: int, *, body: Callable[[Row], str], above: Callable[[Row], str], corpus: Iterable[str],
    seed: int,
) -> list[Row]:  # fmt: skip
    """At most ``count`` gaps: one of every chunk in turn, then a second ….

    ``body`` is the text of a chunk and ``above`` the lines it is shown under; ``corpus`` (all texts of the field)
    tells how words are used.
    """
    usage = _Usage(corpus)
    held_out = _Company(map(body, chunks))
    documents: dict[str, set[str]] = defaultdict(set)
    for chunk in chunks:
        documents[chunk["document"]].update(WORD.findall(body(chunk)))
    found = [_gaps(c, above(c), body(c), documents[c["document"]], usage, held_out, seed) for c in chunks]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*found))
    return list(itertools.islice((gap for gap in rounds if gap is not None), count))


class _Usage:
    """How words are used in a field: how often, after which one and two others, and whether phrases end with them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.after: dict[str, set[str]] = defaultdict(set)
        self.after_two: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.count: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        for sentence in itertools.chain.from_iterable(map(_sentences, texts)):
            words = WORD.findall(sentence)
            for first, second in itertools.pairwise(words):
                self.after[first.lower()].add(second)
            for first, second, third in zip(words, words[1:], words[2:], strict=False):
                self.after_two[first.lower(), second.lower()].add(third)
            for match in WORD.finditer(sentence):
                following = WORD.match(sentence, match.end() + 1)
                self.count[match.group()] += 1
                self.ends[match.group()] += following is None or following.group().lower() in _common()

    def head(self, word: str) -> float:
        """The share of its places that end a phrase, as those of nouns do and those of adjectives do not."""
        return self.ends[word] / self.count[word]


class _Company:
    """Which words keep company: in which sentences of the held-out text each stands."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.places: dict[str, set[int]] = defaultdict(set)
        for number, sentence in enumerate(itertools.chain.from_iterable(map(_sentences, texts))):
            for word in WORD.findall(sentence):
                self.places[word.lower()].add(number)

    def near(self, word: str, others: set[str], spare: int = 0) -> float:
        """Sentences shared with the others per sentence it stands in; ``spare`` of its sentences do not count."""
        places = self.places[word.lower()]
        shared = sum(len(places & self.places[o]) for o in others if o in self.places) - spare * len(others)
        return shared / max(len(places) - spare, 1)


def _sentences(text: str) -> list[str]:
    return re.split(r"[.;:!?]+(?=\s|$)|\n", text)


def _gaps(
    chunk: Row, above: str, text: str, words: set[str], usage: _Usage, held_out: _Company, seed: int
) -> list[Row]:
    """The gaps of one chunk: those first whose sentence speaks most clearly for the answer."""
    candidates = []
    for match in GAP.finditer(text):
        answer, stem = match.group(), above + _tail(text[: match.start()])
        begun = WORD.findall(_sentences(text[: match.start()])[-1])
        if answer.lower() in _common() or len(begun) < LEAST_WORDS or not _prose(text, match) or _holds(stem, answer):
            continue
        context = {w.lower() for w in begun if w.lower() not in _common()}
        wrong = _distractors(answer, begun, stem, words, usage)
        # The gap's own sentence is left out: it would speak for the answer by itself.
        lead = held_out.near(answer, context, spare=1) - max((held_out.near(w, context) for w in wrong), default=0)
        if len(wrong) >= 3 and lead >= LEAST_LEAD:
            candidates.append((-lead, match.start(), answer, stem.rstrip(" "), wrong))
    rows: list[Row] = []
    taken: list[int] = []
    for _, start, answer, stem, wrong in sorted(candidates):
        if all(abs(start - other) >= APART for other in taken) and answer not in {r["answer"] for r in rows}:
            rng = np.random.default_rng([seed, start, *chunk["id"].encode()])
            choices = [answer, *(wrong[i] for i in rng.permutation(len(wrong))[:3])]
            order = rng.permutation(4)
            taken.append(start)
            rows.append({
                "id": f"cloze/{chunk['id']}/{start}", "measure": "cloze", "cluster": chunk["group"],
                "title": chunk["title"], "heading": chunk["heading"], "prompt": stem, "answer": answer,
                "choices": [f" {choices[i]}" for i in order], "gold": int(np.flatnonzero(order == 0)[0]),
            })  # fmt: skip
    return rows


def _distractors(answer: str, begun: list[str], stem: str, words: set[str], usage: _Usage) -> list[str]:
    """Words of the document that could stand in the gap by grammar, in alphabetical order."""
    first, second = begun[-2].lower(), begun[-1].lower()
    return [
        word
        for word in sorted((usage.after[second] - usage.after_two[first, second]) & words)
        if len(word) >= 4
        and word.lower() not in _common()
        and _shape(word) == _shape(answer)
        and BAND[0] <= usage.count[word] / usage.count[answer] <= BAND[1]
        and abs(usage.head(word) - usage.head(answer)) <= 0.4
        and word.lower()[:4] != answer.lower()[:4]
        and not _holds(stem, word)
    ]


def _holds(stem: str, word: str) -> bool:
    """Whether the text holds the word or a form of it."""
    root = word.lower()[: max(4, len(word) - 3)]
    return re.search(rf"(?<![^\W\d_]){re.escape(root)}", stem.lower()) is not None


def _shape(word: str) -> tuple[str, str]:
    case = "upper" if word.isupper() else "capital" if word[0].isupper() else "lower"
    return case, next((e for e in ENDINGS if word.lower().endswith(e)), "")


def _prose(text: str, match: re.Match[str]) -> bool:
    """Whether a word stands in running text: not in an indented line, and with little but words before it."""
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    before = text[max(0, match.start() - 60) : match.start()]
    plain = sum(c.isalpha() or c in " ,." for c in before) / max(len(before), 1)
    return not line.startswith(("   ", "\t")) and plain > 0.85


def _tail(text: str) -> str:
    """The end of a text, from the beginning of a sentence where one begins late enough."""
    if len(text) <= STEM:
        return text
    tail = text[-STEM:]
    start = re.search(r"(?<=[.!?:]\s)\s*\S|\n\s*\S", tail[: STEM // 2])
    return tail[start.start() :].lstrip() if start else tail[tail.find(" ") + 1 :]


@functools.cache
def _counts() -> Counter[str]:
    return Counter(w.lower() for row in data.replay() for w in WORD.findall(row["text"]))


@functools.cache
def _common() -> frozenset[str]:
    return frozenset(word for word, _ in _counts().most_common(COMMON))
