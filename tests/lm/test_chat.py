from __future__ import annotations

import pytest
import torch

from metier.lm import generate, load, pieces, score, tokens
from metier.lm.chat import Sampling
from metier.options import MetierError

ASKED = [
    [{"role": "user", "content": "river bridge valve meter open close north"}],
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "stands"}, {"role": "assistant", "content": "the valve"}],
]


@pytest.fixture(scope="module")
def chat(toy):
    return load.open(toy)


def served(chat, conversation) -> list[int]:
    tokenizer = chat.loaded[1]
    return pieces.encode(tokenizer, tokens.render(tokenizer, conversation, reply=True))


def test_greedy_replies_are_the_likeliest_token_again_and_again(chat):
    network, tokenizer = chat.loaded
    replies = chat.reply(ASKED, Sampling(max_tokens=10))
    for conversation, reply in zip(ASKED, replies, strict=True):
        ids, chosen, value = served(chat, conversation), [], 0.0
        while len(chosen) < 10 and (not chosen or chosen[-1] not in (0, 2)):  # without a cache, one at a time
            with torch.no_grad():
                scores = torch.log_softmax(network(input_ids=torch.tensor([ids + chosen])).logits[0, -1].float(), -1)
            chosen.append(int(scores.argmax()))
            value += float(scores.max())
        assert reply.text == tokenizer.decode(chosen, skip_special_tokens=True)
        assert reply.tokens == len(chosen)
        assert reply.logprob == pytest.approx(value, abs=1e-4)
        assert reply.finish == ("stop" if chosen[-1] in (0, 2) else "length")


def test_samples_do_not_depend_on_what_else_is_asked(chat, monkeypatch):
    given = {"max_tokens": 12, "temperature": 1.5, "top_p": 0.95, "seed": 3}
    together = chat.reply(ASKED, Sampling(n=3, **given))
    monkeypatch.setattr(generate, "ROWS", 2)
    apart = [reply for one in ASKED[::-1] for reply in chat.reply([one], Sampling(n=3, **given))]
    assert [r.text for r in together] == [r.text for k in (2, 1, 0) for r in apart[3 * k : 3 * k + 3]]
    assert len({r.text for r in together[:3]}) == 3
    assert [r.text for r in chat.reply(ASKED, Sampling(n=3, **given | {"seed": 4}))] != [r.text for r in together]


def test_samples_follow_the_models_distribution(chat):
    network, _ = chat.loaded
    with torch.no_grad():
        p = torch.softmax(network(input_ids=torch.tensor([served(chat, ASKED[1])])).logits[0, -1].double(), -1)
    drawn = chat.reply([ASKED[1]], Sampling(n=400, max_tokens=1, temperature=1.0))
    mean = sum(reply.logprob for reply in drawn) / 400
    spread = float((p * p.log().square()).sum() - (p * p.log()).sum().square()) ** 0.5
    assert mean == pytest.approx(float((p * p.log()).sum()), abs=4 * spread / 20)  # minus the entropy
    cut = chat.reply([ASKED[1]], Sampling(n=50, max_tokens=1, temperature=1.0, top_p=1e-6))
    assert {round(reply.logprob, 4) for reply in cut} == {round(float(p.max().log()), 4)}


def test_a_stop_string_ends_the_reply_and_is_cut_off(chat):
    whole = chat.reply(ASKED[:1], Sampling(max_tokens=30))[0].text
    mark = whole[8:10]
    [reply] = chat.reply(ASKED[:1], Sampling(max_tokens=30, stop=(mark, "never said")))
    assert reply.text == whole[: whole.index(mark)]
    assert reply.finish == "stop"


def test_the_window_ends_a_reply(chat):
    ids = served(chat, ASKED[1])
    word = len(pieces.encode(chat.loaded[1], " a"))
    filler = " a" * ((512 - len(ids) - 3) // word)
    [reply] = chat.reply([[{"role": "user", "content": "a" + filler}]], Sampling(max_tokens=50))
    assert reply.tokens <= 3 + word
    with pytest.raises(MetierError, match="leaves no room in the model's window of 512"):
        chat.reply([[{"role": "user", "content": filler * 2}]], Sampling(max_tokens=5))


def test_a_reply_and_its_log_probability_agree(smollm2):
    chat = load.open(smollm2)
    heard = []
    asked = [[{"role": "user", "content": "What is the capital of France? Answer with one word."}],
             [{"role": "user", "content": "Say yes."}]]  # fmt: skip
    replies = chat.reply(asked, Sampling(max_tokens=24), heard.append)
    assert sum(heard) == 2
    assert "Paris" in replies[0].text
    assert replies[0].finish == "stop"
    prompt = tokens.render(chat.loaded[1], asked[0], reply=True)
    [found] = chat.logprobs([prompt], [replies[0].text + "<|im_end|>"])
    assert found == score.LogProb(pytest.approx(replies[0].logprob, abs=1e-3), replies[0].tokens)
    begun, missing = replies[0].text[: len("The capital")], replies[0].text[len("The capital") :]
    [rest] = chat.reply([[*asked[0], {"role": "assistant", "content": begun}]], Sampling(max_tokens=24))
    assert rest.text == missing


def test_a_closed_chat_opens_again(chat):
    before = chat.reply(ASKED[:1], Sampling(max_tokens=5))
    chat.close()
    assert chat.reply(ASKED[:1], Sampling(max_tokens=5)) == before
