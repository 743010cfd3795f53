"""The toy model behaves where the laws look like the models people bring."""

from __future__ import annotations

from metier.artefacts import Model
from metier.lm import load, tokens


def test_its_marks_are_special_as_in_a_real_chat_model(toy: Model) -> None:
    tokenizer = load.tokenizer_of(toy)
    assert set(tokenizer.all_special_tokens) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    ids = tokens.encode(tokenizer, "<|im_start|>the river<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the river"


def test_a_text_that_begins_with_its_mark_gets_no_other_mark(toy: Model) -> None:
    plain, marked = load.open(toy).logprobs(["", ""], ["the river", "<|im_start|>the river"])
    assert marked.tokens == plain.tokens  # the first token is given, not foreseen: a mark put before, or the text's own
