from __future__ import annotations

import math

import pytest
import torch

from metier import recipe
from metier.infer.decode import lockstep
from metier.lm import load, tokens
from metier.lm.chat import Sampling
from metier.options import MetierError

ASKED = [[{"role": "user", "content": "river bridge valve"}], [{"role": "user", "content": "the"}]]
P = {"a": [0.7, 0.2, 0.1], "b": [0.1, 0.2, 0.7]}
LOGITS = {name: torch.tensor([p]).log() + shift for (name, p), shift in zip(P.items(), (3.0, -5.0), strict=True)}


def test_the_averages_are_the_formulas():
    shares = {"a": 0.75, "b": 0.25}
    found = lockstep.average(LOGITS, shares, "probability")
    assert found.exp()[0].tolist() == pytest.approx([0.55, 0.2, 0.25])
    found = torch.softmax(lockstep.average(LOGITS, shares, "log"), -1)[0].tolist()
    raw = [p**0.75 * q**0.25 for p, q in zip(P["a"], P["b"], strict=True)]
    assert found == pytest.approx([r / sum(raw) for r in raw])


def test_where_one_objects_only_the_log_average_hears_it():
    logits = {"a": torch.tensor([[0.0, -40.0]]), "b": torch.tensor([[0.0, 0.0]])}
    shares = {"a": 0.5, "b": 0.5}
    assert float(lockstep.average(logits, shares, "probability").exp()[0, 1]) == pytest.approx(0.25)
    assert float(torch.softmax(lockstep.average(logits, shares, "log"), -1)[0, 1]) == pytest.approx(math.exp(-20))


def test_alike_models_are_one_and_the_order_does_not_count(toy):
    chat = load.open(toy)
    bare = chat.reply(ASKED, Sampling(max_tokens=10))
    for space in ("probability", "log"):
        twice = lockstep.wrap({"one": chat, "two": load.open(toy)}, weights={"one": 3, "two": 1}, space=space)
        found = twice.reply(ASKED, Sampling(max_tokens=10))
        assert [r.text for r in found] == [r.text for r in bare]
        assert [r.logprob for r in found] == pytest.approx([r.logprob for r in bare], abs=1e-4)
    one, two = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    shares = {"x": 0.3, "y": 0.7}
    found = lockstep.average({"x": one, "y": two}, shares, "probability")
    assert torch.equal(found, lockstep.average({"y": two, "x": one}, {"y": 0.7, "x": 0.3}, "probability"))


def test_a_weight_of_nothing_leaves_the_bare_chat(toy):
    chats = {"base": load.open(toy), "expert": load.open(toy)}
    assert lockstep.wrap(chats, weights={"base": 2.0, "expert": 0.0}) is chats["base"]
    assert lockstep.wrap(chats, **lockstep.OFF) is chats["base"]
    assert lockstep.wrap({"base": chats["base"]}) is chats["base"]
    whole = lockstep.wrap(chats)
    assert whole.access == "logits"
    settings = {}, {"space": "log"}, {"weights": {"base": 1, "expert": 2}}, {"weights": {"base": 2, "expert": 1}}
    assert len({lockstep.wrap(chats, **given).digest for given in settings}) == 4
    assert lockstep.wrap(chats, weights={"base": 1, "expert": 1}).digest == whole.digest


def test_weights_that_name_nobody_are_refused(toy):
    chats = {"base": load.open(toy), "expert": load.open(toy)}
    with pytest.raises(MetierError, match="has no chat 'exprt'; did you mean 'expert'"):
        lockstep.wrap(chats, weights={"exprt": 1})
    for weights in ({"base": 0.0}, {}):
        with pytest.raises(MetierError, match="no chat with a weight above 0"):
            lockstep.wrap(chats, weights=weights)


def test_a_recipe_needs_the_models_themselves(toy):
    text = f"""
base: {{use: model, path: {toy.path}}}
notes: {{use: data.ingest.records, source: [{__file__}]}}
read: {{use: infer.context.passages, chat: $base, data: $notes}}
both: {{use: infer.decode.lockstep, chats: {{base: $base, other: $base}}, weights: {{base: 0.3, other: 0.7}}}}
wrong: {{use: infer.decode.lockstep, chats: {{base: $base, read: $read}}}}
"""
    *right, _ = recipe.parse(text)
    assert recipe.check(right)[-1].method.returns == "Chat"
    with pytest.raises(MetierError, match=r"line 6: .*lockstep"):
        recipe.check(recipe.parse(text))


def test_two_real_models_answer_as_one(smollm2, tmp_path):
    """The instruct model beside itself with another strength: the mixture lies between, token for token."""
    from metier.compose.delta import extract
    from metier.compose.merge import linear
    from metier.options import Bound
    from metier.steps import merge
    from metier.store import Work

    noisy = _noisy(smollm2, tmp_path)
    part = extract.make(noisy, smollm2, rank=8, work=Work(tmp_path / "part"))
    assert 0.5 < part.notes["lost"] < 1  # noise has no low rank
    method = Bound("compose.merge.linear", linear.merge, {"weights": {"n": 0.5}})
    half = merge.run(smollm2, {"n": noisy}, method=method, work=Work(tmp_path / "half"))
    assert half.notes["licence"] == "Apache-2.0"
    chats = {"base": load.open(smollm2), "half": load.open(half)}
    asked = [[{"role": "user", "content": "What is the capital of France? Answer with one word."}]]
    [reply] = lockstep.wrap(chats).reply(asked, Sampling(max_tokens=16))
    assert "Paris" in reply.text and reply.finish == "stop"
    prompt = tokens.render(chats["base"].loaded[1], asked[0], reply=True)
    said = reply.text + "<|im_end|>"
    [joint] = lockstep.wrap(chats).logprobs([prompt], [said])
    assert joint.sum == pytest.approx(reply.logprob, abs=1e-3) and joint.tokens == reply.tokens
    apart = [chat.logprobs([prompt], [said])[0].sum for chat in chats.values()]
    assert min(apart) - 1e-3 <= joint.sum
    assert apart[0] != pytest.approx(apart[1], abs=1e-3)


def _noisy(start, folder):
    from metier.artefacts import Model
    from metier.compose import tensors
    from metier.compose.weights import Weights

    read = Weights(start)

    def make(name: str) -> torch.Tensor:
        tensor = read[name]
        if not name.endswith("v_proj.weight"):
            return tensor
        noise = torch.randn(tensor.shape, generator=tensors.Here(name).generator("n"))
        return tensor + noise * tensor.std() * 0.3

    place = folder / "noisy"
    place.mkdir()
    tensors.write(place, read, read, make)
    return Model(place, "noisy", notes=start.notes)
