"""Random conversations: trained on = served = rendered; random records: a mask or one sentence."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

import junk
import talks
from metier.lm import tokens
from metier.options import MetierError

SOUND = [t for t in talks.templates() if not t.refused]
# The mark that tokens.py cuts with is no character of a text; what a sentencepiece model writes for a space is lost.
words = st.text(st.characters(codec="utf-8", exclude_characters="\ufdd0▁"), max_size=30) | st.sampled_from(talks.TRAPS)


@functools.cache
def tokenizer(kind: str, index: int) -> PreTrainedTokenizerBase:
    return talks.tokenizer(kind, SOUND[index])


@given(
    st.integers(0, len(SOUND) - 1),
    st.sampled_from(["bytes", "pieces"]),
    st.lists(st.tuples(words, words), min_size=1, max_size=4),
    st.none() | words,
)
@settings(max_examples=100, deadline=None)
def test_masks_of_random_conversations(index: int, kind: str, pairs: list[tuple[str, str]], system: str | None) -> None:
    template = SOUND[index]
    talk = [{"role": "system", "content": system}] if system is not None and template.system else []
    for asked, reply in pairs:
        talk += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    assert talks.mismatch(tokenizer(kind, index), template, kind, talk) is None


@given(st.integers(0, 2**32).map(random.Random), st.sampled_from(range(len(SOUND))))
@settings(max_examples=100, deadline=None)
def test_any_record_has_a_mask_or_is_refused_in_one_sentence(draw: random.Random, index: int) -> None:
    record: Any = junk.damaged(draw, {"id": "x"} | draw.choice(junk.SHAPES))
    if not isinstance(record, dict):
        return
    try:
        ids, labels = tokens.supervised(tokenizer("bytes", index), record)
    except MetierError as error:
        assert str(error).isprintable()
    else:
        assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))


ODD: list[Any] = [5, "hi", {"a": 1}, [[]], [{"role": "user"}], [{"content": "a"}], [{"role": "x", "content": "a"}],
                  [{"role": "user", "content": None}], [{"role": ["user"], "content": "a"}]]  # fmt: skip


@pytest.mark.parametrize("messages", ODD, ids=str)
def test_what_is_no_conversation_is_said(messages: Any) -> None:
    with pytest.raises(MetierError, match=r"^record 'x': "):
        tokens.supervised(tokenizer("bytes", 0), {"id": "x", "messages": messages})
