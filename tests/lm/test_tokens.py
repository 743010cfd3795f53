from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.lm import load, pieces, tokens
from metier.lm.loss import IGNORED
from metier.options import MetierError

TURNS = [
    {"role": "user", "content": "river"},
    {"role": "assistant", "content": "\nbridge falls"},  # a line break that a joint tokenisation would merge
    {"role": "user", "content": "valve"},
    {"role": "assistant", "content": "open"},
]


@pytest.fixture(scope="module")
def tokenizer(toy):
    return load.tokenizer_of(toy)


def test_the_prompt_of_a_reply_and_of_its_continuation(tokenizer):
    asked = "<|im_start|>user\nriver<|im_end|>\n<|im_start|>assistant\n"
    assert tokens.render(tokenizer, TURNS[:1], reply=True) == asked
    assert tokens.render(tokenizer, TURNS[:2], reply=True) == asked + "\nbridge falls"
    assert tokens.render(tokenizer, TURNS[:2], reply=False) == asked + "\nbridge falls<|im_end|>\n"


def test_labels_are_the_replies_and_their_ends_behind_exactly_the_served_prompt(tokenizer):
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "messages": TURNS})
    assert [i for i, label in zip(ids, labels, strict=True) if label not in (IGNORED, i)] == []
    learnt = "".join(tokenizer.decode([i]) for i, label in zip(ids, labels, strict=True) if label != IGNORED)
    assert learnt == "\nbridge falls<|im_end|>open<|im_end|>"
    assert tokenizer.decode(ids) == tokens.render(tokenizer, TURNS, reply=False)
    served = pieces.encode(tokenizer, tokens.render(tokenizer, TURNS[:1], reply=True))
    first = next(i for i, label in enumerate(labels) if label != IGNORED)
    assert ids[:first] == served


def test_the_embedded_models_template_is_masked_as_it_is_served(smollm2):
    tokenizer = load.tokenizer_of(smollm2)
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "messages": TURNS})
    first = next(i for i, label in enumerate(labels) if label != IGNORED)
    assert ids[:first] == pieces.encode(tokenizer, tokens.render(tokenizer, TURNS[:1], reply=True))
    learnt = tokenizer.decode([label for label in labels if label != IGNORED])
    assert learnt == "\nbridge falls<|im_end|>open<|im_end|>"
    assert tokenizer.decode([tokens.separator(tokenizer)]) == "<|endoftext|>"
    assert {tokenizer.decode([i]) for i in tokens.end_of_turn(tokenizer)} == {"<|im_end|>", "<|endoftext|>"}


def test_a_model_without_template_gets_the_plain_one(toy):
    tokenizer = load.tokenizer_of(toy)
    tokenizer.chat_template = None
    asked = [{"role": "system", "content": "a"}, *TURNS[:1]]
    assert tokens.render(tokenizer, asked, reply=True) == "a\n\nUser:\nriver\n\nAssistant:\n"
    labels = tokens.supervised(tokenizer, {"id": "a", "messages": TURNS[:2]})[1]
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "\nbridge falls<|im_end|>"
    assert tokens.end_of_turn(tokenizer) == sorted(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def test_text_and_completion_records(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "text": "river bridge"})
    assert ids == labels == [*pieces.encode(tokenizer, "river bridge"), end]
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "prompt": "river", "completion": " falls"})
    prompt, reply = pieces.encode(tokenizer, "river"), [*tokens.encode(tokenizer, " falls"), tokenizer.eos_token_id]
    assert (ids, labels) == (prompt + reply, [IGNORED] * len(prompt) + reply)
    talked = tokens.supervised(tokenizer, {"id": "a", "prompt": TURNS[:1], "completion": "open"})
    assert talked == tokens.supervised(tokenizer, {"id": "a", "messages": [TURNS[0], TURNS[3]]})


def test_a_reply_of_weight_zero_and_a_tools_answer_are_read_and_not_learnt(tokenizer):
    called = [TURNS[0], TURNS[1] | {"weight": 0}, {"role": "tool", "content": "north"}, TURNS[3]]
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "messages": called})
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "open<|im_end|>"
    assert tokenizer.decode(ids).count("bridge falls<|im_end|>") == 1 and "tool\nnorth" in tokenizer.decode(ids)


def test_a_continued_reply_is_not_tokenised_across_its_border(tokenizer):
    asked = tokens.prompt(tokenizer, TURNS[:1])
    assert tokens.prompt(tokenizer, TURNS[:2]) == asked + pieces.encode(tokenizer, TURNS[1]["content"])


def test_why_a_record_teaches_nothing():
    assert tokens.unlearnable([IGNORED, IGNORED, 5], 3) is None
    assert tokens.unlearnable([IGNORED, IGNORED, 5], 2) == "no reply within 2 tokens"
    assert tokens.unlearnable([5, IGNORED], 9) == "nothing to learn from"  # nothing could predict the first token


def test_half_a_character_is_one_sentence(tokenizer):
    with pytest.raises(MetierError, match="half a character in it cannot be tokenised"):
        pieces.encode(tokenizer, "a\ud800")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"messages": [TURNS[0], TURNS[2]]}, "message 2 is from 'user' and should be from 'assistant'"),
        ({"messages": [TURNS[1]]}, "message 1 is from 'assistant' and should be from 'user'"),
        ({"other": 1}, "has no text, messages or prompt with completion to learn from"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(tokenizer, record, sentence):
    with pytest.raises(MetierError) as error:
        tokens.supervised(tokenizer, {"id": "x"} | record)
    assert str(error.value) == f"record 'x': {sentence}"


def test_a_template_that_rewrites_history_is_refused(toy):
    tokenizer = load.tokenizer_of(toy)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(MetierError, match="rewrites what stands before message 2"):
        tokens.supervised(tokenizer, {"id": "x", "messages": TURNS})


def test_a_conversation_the_template_refuses_is_one_sentence(toy):
    tokenizer = load.tokenizer_of(toy)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(MetierError, match="the chat template refuses the conversation: no system role"):
        tokens.render(tokenizer, TURNS, reply=False)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 100))
@settings(deadline=None, max_examples=200)
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    found = tokens.batches(lengths, budget)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in found)
    flat = [lengths[i] for batch in found for i in batch]
    assert flat == sorted(flat, reverse=True)
