"""Whose words a token is, in the chat templates people meet: read back, they are the words of the messages."""

from __future__ import annotations

import re

import pytest
from transformers import AutoTokenizer

import talks
from metier.lm import load, speakers, tokens
from metier.lm.loss import IGNORED
from metier.lm.speakers import ASSISTANT, CODES, MUTED, SYSTEM, TEMPLATE, TOOL, USER
from metier.options import MetierError

SOUND = [t for t in talks.templates() if not t.refused]
ROLES = CODES | {"assistant": ASSISTANT}


def named(name: str) -> talks.Template:
    return next(t for t in SOUND if t.name == name)


def solid(text: str) -> str:
    """Without blanks, which belong to nobody, and without what a sentencepiece model cannot tell from one."""
    return re.sub(r"\s|▁", "", text)


def said(tokenizer, record, code: int) -> list[str]:
    """What the tokens with this code say, a text for each stretch of them."""
    ids, codes = tokens.supervised(tokenizer, record)[0], speakers.of(tokenizer, record).tolist()
    assert len(ids) == len(codes)
    found: list[list[int]] = []
    for k, own in enumerate(codes):
        if own == code:
            found += [[]] if not found or codes[k - 1] != code else []
            found[-1].append(ids[k])
    return [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in found]


@pytest.mark.parametrize("template", SOUND, ids=lambda t: t.name)
@pytest.mark.parametrize("kind", ["bytes", "pieces", "glued", "base"])
def test_tokens_of_each_role_are_the_words_of_its_messages(template, kind, smollm2) -> None:
    tokenizer = talks.tokenizer(kind, template, load.tokenizer_of(smollm2) if kind == "base" else None)
    ends = "|".join(re.escape(solid(tokenizer.decode([i]))) for i in tokens.end_of_turn(tokenizer))
    for seed in range(25):
        talk = talks.conversation(seed, template.system, turns=3)
        for role, code in ROLES.items():
            heard = [solid(text) for text in said(tokenizer, {"id": "x", "messages": talk}, code)]
            words = [solid(m["content"]) for m in talk if m["role"] == role]
            if role == "assistant":  # their ends are learnt with them, and may stand in a message as words
                heard, words = ([re.sub(ends, "", text) for text in texts] for texts in (heard, words))
            heard, words = ([text for text in texts if text] for texts in (heard, words))
            assert len(heard) == len(words)
            for text, wanted in zip(heard, words, strict=True):
                assert text in (wanted, f":{wanted}"), (seed, role)  # SmolLM2 has a token for ":|" after "USER:"


@pytest.mark.parametrize("word", ["user", "system", "assistant", "a", "e", ".", "im", "|", ":", "0", "水", "[", "s"])
@pytest.mark.parametrize("template", SOUND, ids=lambda t: t.name)
def test_a_word_that_stands_in_the_template_too_is_the_message_s_only_there(template, word) -> None:
    tokenizer = talks.tokenizer("bytes", template)
    talk = [{"role": r, "content": word} for r in ("user", "assistant", "user", "assistant")]
    assert [solid(text) for text in said(tokenizer, {"id": "x", "messages": talk}, USER)] == [word, word]
    if template.system:
        talk = [{"role": "system", "content": word}, *talk]
        assert [solid(text) for text in said(tokenizer, {"id": "x", "messages": talk}, SYSTEM)] == [word]


def test_the_system_message_a_template_adds_is_nobody_s() -> None:
    tokenizer = talks.tokenizer("bytes", named("qwen"))
    talk = [{"role": "user", "content": "You are a helpful assistant."}, {"role": "assistant", "content": "no"}]
    ids, codes = tokens.supervised(tokenizer, {"id": "x", "messages": talk})[0], None
    codes = speakers.of(tokenizer, {"id": "x", "messages": talk})
    assert "helpful" in tokenizer.decode([i for i, c in zip(ids, codes, strict=True) if c == TEMPLATE])
    assert SYSTEM not in codes and said(tokenizer, {"id": "x", "messages": talk}, USER) == [talk[0]["content"]]


def test_every_token_of_a_character_at_the_border_is_the_message_s() -> None:
    tokenizer = talks.tokenizer("bytes", named("chatml"))
    talk = [{"role": "user", "content": "水位"}, {"role": "assistant", "content": "が"}]
    assert len(tokenizer("水", add_special_tokens=False)["input_ids"]) > 1
    assert said(tokenizer, {"id": "x", "messages": talk}, USER) == ["水位"]


def test_tools_speak_for_themselves() -> None:
    tokenizer = talks.tokenizer("bytes", named("chatml"))
    talk = [{"role": "user", "content": "how high?"}, {"role": "assistant", "content": "{call}"},
            {"role": "tool", "content": "12.5"}, {"role": "tool", "content": "bar"},
            {"role": "assistant", "content": "12.5 bar"}]  # fmt: skip
    assert said(tokenizer, {"id": "x", "messages": talk}, TOOL) == ["12.5", "bar"]
    assert [text.removesuffix("<|im_end|>") for text in said(tokenizer, {"id": "x", "messages": talk}, ASSISTANT)] == [
        "{call}", "12.5 bar"]  # fmt: skip


def test_replies_of_weight_0_are_muted_and_no_mark_of_the_template() -> None:
    tokenizer = talks.tokenizer("bytes", named("chatml"))
    talk = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "falls", "weight": 0},
            {"role": "user", "content": "and"}, {"role": "assistant", "content": "rises", "weight": 1}]  # fmt: skip
    assert said(tokenizer, {"id": "x", "messages": talk}, MUTED) == ["falls<|im_end|>"]
    assert said(tokenizer, {"id": "x", "messages": talk}, ASSISTANT) == ["rises<|im_end|>"]
    marks = "".join(said(tokenizer, {"id": "x", "messages": talk}, TEMPLATE))
    assert marks.replace("<|im_start|>", "").split() == ["user", "<|im_end|>", "assistant", "user", "<|im_end|>",
                                                         "assistant"]  # fmt: skip


@pytest.mark.parametrize("prompt", ["the river", [{"role": "user", "content": "the river"}]])
def test_a_prompt_with_a_completion(prompt) -> None:
    tokenizer = talks.tokenizer("bytes", named("llama3"))
    record = {"id": "x", "prompt": prompt, "completion": " rises"}
    assert [text.strip() for text in said(tokenizer, record, USER)] == ["the river"]
    assert said(tokenizer, record, ASSISTANT)[0].strip().removesuffix("<|eot_id|>") == "rises"


def test_of_a_text_all_is_learnt(toy) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    record = {"id": "x", "text": "river falls"}
    assert set(speakers.of(tokenizer, record).tolist()) == {ASSISTANT}
    assert IGNORED not in tokens.supervised(tokenizer, record)[1]


def shown(words: str) -> talks.Template:
    """ChatML that shows of a message what the expression gives."""
    text = (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ (m.content if m.role == 'assistant' else WORDS)"
        " ~ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return talks.Template(
        "shown", text.replace("WORDS", words), None, "<|im_end|>", ["<|im_start|>"], True, "exact", ""
    )


TALK = [{"role": "user", "content": 'river "9"'}, {"role": "assistant", "content": "falls"}]


@pytest.mark.parametrize("words, heard", [
    ("(m.content | upper)", 'RIVER "9"'), ("('<b>' ~ m.content ~ '</b>')", 'river "9"'),
    ("(m.content | tojson)", r'river \"9\"'), ("(m.content ~ ' | ' ~ m.content)", 'river "9"|river "9"'),
])  # fmt: skip
def test_words_that_a_template_rewrites_or_repeats_stay_the_message_s(words, heard) -> None:
    tokenizer = talks.tokenizer("bytes", shown(words))
    assert "|".join(t.strip() for t in said(tokenizer, {"id": "x", "messages": TALK}, USER)) == heard


@pytest.mark.parametrize("words", ["m.content[:3]", "m.content.split('v')[1]", "(m.content | length)"])
def test_a_template_that_cuts_up_a_message_is_refused_with_the_record(words) -> None:
    tokenizer = talks.tokenizer("bytes", shown(words))
    assert tokens.supervised(tokenizer, {"id": "r7", "messages": TALK})
    with pytest.raises(MetierError, match=r"^record 'r7': the chat template cuts up a message"):
        speakers.of(tokenizer, {"id": "r7", "messages": TALK})


def test_a_tokenizer_that_does_not_tell_where_its_tokens_stand_is_refused(monkeypatch) -> None:
    tokenizer = talks.tokenizer("bytes", named("chatml"))
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    talk = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "falls"}]
    with pytest.raises(MetierError, match="does not tell where in a text a token stands"):
        speakers.of(tokenizer, {"id": "x", "messages": talk})
