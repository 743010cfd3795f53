from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.artefacts import Model
from metier.laws import toy as maker
from metier.lm import generate, load, loss, pieces, score, tokens
from metier.lm.chat import Sampling, Wrapped
from metier.lm.lockstep import Lockstep
from metier.options import MetierError

ASKED = [
    [{"role": "user", "content": "river bridge valve meter open close north"}],
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "stands"}, {"role": "assistant", "content": "the valve"}],
]
STEM = "river bridge valve meter open close north south seven eight the"
PROMPTS = [STEM, STEM, STEM, "a"]
CONTINUATIONS = [" valve of the", " bridge", " meter stands and rises", " falls"]


@pytest.fixture(scope="module")
def pair(toy, tmp_path_factory):
    return load.open(toy), load.open(maker.write(tmp_path_factory.mktemp("other") / "model", seed=1))


def product(logits):
    """Of the two distributions: neither of them, and no average."""
    return sum(torch.log_softmax(one, -1) for one in logits.values())


@pytest.fixture(scope="module")
def joint(pair):
    return Lockstep("test", {"one": pair[0], "two": pair[1]}, product)


def naive(chats, ids):
    """Log-probabilities of the next token, without cache, batch or padding."""
    with torch.no_grad():
        logits = [c.loaded[0](input_ids=torch.tensor([ids])).logits[0, -1].float() for c in chats]
    return torch.log_softmax(product(dict(enumerate(logits))), -1)


def test_a_reply_is_the_likeliest_token_of_all_again_and_again(pair, joint):
    replies = joint.reply(ASKED, Sampling(max_tokens=12))
    for conversation, reply in zip(ASKED, replies, strict=True):
        ids, chosen, value = tokens.prompt(pair[0].loaded[1], conversation), [], 0.0
        while len(chosen) < 12 and (not chosen or chosen[-1] not in (0, 2)):
            scores = naive(pair, ids + chosen)
            chosen.append(int(scores.argmax()))
            value += float(scores.max())
        assert reply.text == pair[0].loaded[1].decode(chosen, skip_special_tokens=True)
        assert (reply.tokens, reply.finish) == (len(chosen), "stop" if chosen[-1] in (0, 2) else "length")
        assert reply.logprob == pytest.approx(value, abs=1e-3)
    alone = [chat.reply(ASKED, Sampling(max_tokens=12)) for chat in pair]
    assert all([r.text for r in replies] != [r.text for r in one] for one in alone)


def test_log_probabilities_agree_with_the_reply_and_with_the_formula(pair, joint):
    tokenizer = pair[0].loaded[1]
    prompt = tokens.render(tokenizer, ASKED[0], reply=True)
    drawn = joint.reply(ASKED[:1], Sampling(max_tokens=1, n=40, temperature=2.0))
    drawn = [reply for reply in drawn if len(pieces.encode(tokenizer, reply.text)) == 1]
    assert len({reply.text for reply in drawn}) > 10
    found = joint.logprobs([prompt] * len(drawn), [reply.text for reply in drawn])
    assert [f.sum for f in found] == pytest.approx([reply.logprob for reply in drawn], abs=1e-3)
    heard = []
    whole = joint.logprobs(PROMPTS, CONTINUATIONS, advance=heard.append)
    for prompt, continuation, found in zip(PROMPTS, CONTINUATIONS, whole, strict=True):
        [(ids, start)] = score._split(tokenizer, [prompt], [continuation])
        wanted = sum(float(naive(pair, ids[:i])[ids[i]]) for i in range(start, len(ids)))
        assert found == score.LogProb(pytest.approx(wanted, abs=1e-3), len(ids) - start)
    assert sum(heard) == sum(f.tokens for f in whole)


def test_replies_that_end_early_leave_the_others_as_they_were(joint):
    whole = joint.reply(ASKED, Sampling(max_tokens=16))
    mark = whole[1].text[6:8]
    ended = joint.reply(ASKED, Sampling(max_tokens=16, stop=(mark,)))
    assert [r.text for r in ended] == [r.text.partition(mark)[0] for r in whole]
    assert ended[1].finish == "stop" and len({r.tokens for r in ended}) > 1


def test_how_many_positions_are_worked_on_at_once_changes_nothing(joint, monkeypatch):
    whole = joint.logprobs(PROMPTS, CONTINUATIONS)
    monkeypatch.setattr(loss, "BYTES_A_CHUNK", 4 * 320 * 3)
    assert [f.sum for f in joint.logprobs(PROMPTS, CONTINUATIONS)] == pytest.approx([f.sum for f in whole], abs=1e-4)


def test_one_alone_is_the_bare_chat(pair):
    single = Lockstep("test", {"one": pair[0]}, lambda logits: logits["one"])
    for given in ({"max_tokens": 12}, {"max_tokens": 12, "n": 2, "temperature": 1.2, "top_p": 0.9, "seed": 5}):
        assert single.reply(ASKED, Sampling(**given)) == pair[0].reply(ASKED, Sampling(**given))
    bare = pair[0].logprobs(PROMPTS, CONTINUATIONS)
    for one, other in zip(single.logprobs(PROMPTS, CONTINUATIONS), bare, strict=True):
        assert one == score.LogProb(pytest.approx(other.sum, abs=1e-4), other.tokens)


def test_samples_do_not_depend_on_what_else_is_asked(joint, monkeypatch):
    given = {"max_tokens": 10, "temperature": 1.5, "top_p": 0.95, "seed": 3}
    together = joint.reply(ASKED, Sampling(n=3, **given))
    monkeypatch.setattr(generate, "ROWS", 2)
    apart = [reply for one in ASKED[::-1] for reply in joint.reply([one], Sampling(n=3, **given))]
    assert [r.text for r in together] == [r.text for k in (2, 1, 0) for r in apart[3 * k : 3 * k + 3]]
    assert len({r.text for r in together[:3]}) == 3


def test_a_difference_of_two_that_are_alike_changes_nothing(pair):
    """What proxy tuning does: base + expert − antiexpert, each with its own cache."""

    def shifted(logits):
        return logits["base"] + logits["expert"] - logits["antiexpert"]

    three = {"base": pair[0], "expert": pair[1], "antiexpert": pair[1]}
    steered = Lockstep("test", three, shifted)
    assert [r.text for r in steered.reply(ASKED, Sampling(max_tokens=12))] == [
        r.text for r in pair[0].reply(ASKED, Sampling(max_tokens=12))
    ]
    bare = pair[0].logprobs(PROMPTS, CONTINUATIONS)
    assert [f.sum for f in steered.logprobs(PROMPTS, CONTINUATIONS)] == pytest.approx([f.sum for f in bare], abs=1e-3)


def test_padding_behind_the_last_token_is_cut_off(toy, pair, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    network.resize_token_embeddings(328, mean_resizing=False)
    network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path)
    padded = load.open(Model(tmp_path, "padded"))
    joint = Lockstep("test", {"padded": padded, "two": pair[1]}, product)
    wanted = Lockstep("test", {"plain": pair[0], "two": pair[1]}, product)
    assert [r.text for r in joint.reply(ASKED, Sampling(max_tokens=8))] == [
        r.text for r in wanted.reply(ASKED, Sampling(max_tokens=8))
    ]
    found = joint.logprobs(PROMPTS, CONTINUATIONS)
    assert [f.sum for f in found] == pytest.approx([f.sum for f in wanted.logprobs(PROMPTS, CONTINUATIONS)], abs=1e-3)


def test_other_tokens_are_refused_and_the_first_is_named(toy, pair, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    tokenizer.add_tokens(["<tool>"])
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    other = load.open(Model(tmp_path, "other"))
    said = "test: 'a' and 'b' have other tokens: '<tool>' is missing in the one and number 320 in the other"
    for asks in (lambda c: c.reply(ASKED), lambda c: c.logprobs(PROMPTS, CONTINUATIONS)):
        with pytest.raises(MetierError, match=said):
            asks(Lockstep("test", {"a": pair[0], "b": other}, product))
    with pytest.raises(MetierError, match="'w' is no model with its weights at hand, so it cannot go in step"):
        Lockstep("test", {"a": pair[0], "w": Wrapped(pair[1])}, product)


def test_the_shortest_window_counts_and_a_closed_one_opens_again(toy, pair, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    network.config.max_position_embeddings = 32
    network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy.path).save_pretrained(tmp_path)
    short = Lockstep("test", {"one": pair[0], "short": load.open(Model(tmp_path, "short"))}, product)
    [reply] = short.reply(ASKED[1:2], Sampling(max_tokens=100))
    prompt = len(tokens.prompt(pair[0].loaded[1], ASKED[1]))
    assert reply.tokens <= 32 - prompt
    with pytest.raises(MetierError, match="no room in the model's window of 32"):
        short.reply([[{"role": "user", "content": " a" * 60}]])
    long = short.logprobs([""], [" valve" * 60])[0]
    assert long.tokens >= 60  # read in windows of the shorter one
    short.close()
    assert all(chat._loaded is None for chat in short.members.values())
    assert short.reply(ASKED[1:2], Sampling(max_tokens=100)) == [reply]
