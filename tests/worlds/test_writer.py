"""The scripted writer errs as often as it is told to, wherever and with whom it is asked."""

from __future__ import annotations

import pytest

from metier.lm import parse
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.worlds import facts
from metier.worlds.writer import CHATTER, UNKNOWN, Scripted

WORLD = facts.make(400)
QUESTIONS = [q for fact in WORLD.facts for q in fact.questions]


def talk(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("errors", [0.0, 0.15, 0.4, 1.0])
def test_the_error_rate_is_the_one_given(errors: float) -> None:
    replies = Scripted(WORLD, errors).reply([talk(q) for q in QUESTIONS])
    wrong = sum(r.text != f"{WORLD.by_question[q].value}." for r, q in zip(replies, QUESTIONS, strict=True))
    n = len(QUESTIONS)
    assert abs(wrong / n - errors) <= 3 * (errors * (1 - errors) / n) ** 0.5
    for reply, question in zip(replies, QUESTIONS, strict=True):
        fact = WORLD.by_question[question]
        assert reply.text[:-1] in (fact.value, *fact.wrong)


def test_replies_do_not_depend_on_what_else_is_asked() -> None:
    writer = Scripted(WORLD, 0.4)
    sampling = Sampling(temperature=1.0, n=3, seed=5)
    whole = writer.reply([talk(q) for q in QUESTIONS[:60]], sampling)
    alone = [r for q in reversed(QUESTIONS[:60]) for r in reversed(writer.reply([talk(q)], sampling))]
    assert whole == alone[::-1]
    assert whole != writer.reply([talk(q) for q in QUESTIONS[:60]], Sampling(temperature=1.0, n=3, seed=6))


def test_greedy_samples_are_one_and_warm_ones_differ() -> None:
    writer = Scripted(WORLD, 0.5)
    greedy = writer.reply([talk(q) for q in QUESTIONS[:50]], Sampling(n=4, seed=1))
    assert all(len({r.text for r in greedy[i : i + 4]}) == 1 for i in range(0, 200, 4))
    warm = writer.reply([talk(q) for q in QUESTIONS[:50]], Sampling(n=4, temperature=0.7))
    assert sum(len({r.text for r in warm[i : i + 4]}) > 1 for i in range(0, 200, 4)) > 30


def test_another_number_errs_elsewhere_as_often() -> None:
    one, two = ([r.text for r in Scripted(WORLD, 0.3, number=k).reply([talk(q) for q in QUESTIONS])] for k in (0, 1))
    right = [f"{WORLD.by_question[q].value}." for q in QUESTIONS]
    both = sum(a != r and b != r for a, b, r in zip(one, two, right, strict=True)) / len(right)
    assert 0.06 < both < 0.12  # independent: 0.3 × 0.3
    assert len({Scripted(WORLD, 0.3, number=k).digest for k in range(3)} | {Scripted(WORLD, 0.4).digest}) == 4


def test_it_writes_questions_about_its_passage_and_misses_it_as_often_as_it_errs() -> None:
    asked = [talk(f"Write 4 questions about this.\n\n{d['text']}") for d in WORLD.documents(2)]
    titles = [d["title"] for d in WORLD.documents(2)]
    missed = 0
    for title, reply in zip(titles, Scripted(WORLD, 0.25).reply(asked), strict=True):
        found = parse.items(reply.text)
        assert len(found.found) == 4 and not found.unread
        missed += sum(WORLD.by_question[q].subject != title for q in found.found)
    assert abs(missed / (4 * len(titles)) - 0.25) < 0.03


def test_broken_replies_what_it_does_not_know_and_where_a_reply_ends() -> None:
    assert Scripted(WORLD, 0, broken=1.0).reply([talk(QUESTIONS[0])])[0].text == CHATTER
    assert Scripted(WORLD, 0).reply([talk("What is the capital of France?")])[0].text == UNKNOWN
    cut = Scripted(WORLD, 0).reply([talk("hello")], Sampling(max_tokens=2))[0]
    assert (cut.text, cut.tokens, cut.finish) == ("I do", 2, "length")
    assert Scripted(WORLD, 0).reply([talk("hello")], Sampling(stop=(" not",)))[0].text == "I do"
    with pytest.raises(MetierError, match="gives no log-probabilities"):
        Scripted(WORLD).logprobs(["a"], ["b"])
