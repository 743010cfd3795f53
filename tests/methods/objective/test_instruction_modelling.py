from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier import recipe
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import speakers
from metier.lm.loss import IGNORED
from metier.options import MetierError
from metier.store import Work
from metier.train import batches, examples, slots
from metier.train.loop import pretrain, sft
from metier.train.objective import cross_entropy, instruction_modelling
from metier.train.setup import Setup, method

TALKS = maker.questions(6)


def bound(**values):
    return method("train.objective", "loss", "instruction_modelling", **values)


def read(toy, objective, data=TALKS, length=64):
    return examples.conversations(AutoTokenizer.from_pretrained(toy.path), data, length, slots.wanted(objective))


def batch(found, rows=None):
    rows = np.arange(len(found)) if rows is None else rows
    return batches.collate(found, rows, rows, seed=0, epoch=0, progress=0.0, device=torch.device("cpu"))


def value(toy, objective, data=TALKS):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    return float(objective(network, batch(read(toy, objective, data))).detach())


def parts(toy, data=TALKS):
    """Sum of the losses and number of the tokens of replies, and of messages, by plain transformers."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(toy.path), AutoTokenizer.from_pretrained(toy.path)
    found = {speakers.ASSISTANT: [0.0, 0], speakers.USER: [0.0, 0], speakers.TEMPLATE: [0.0, 0]}
    for row in data:
        ids = torch.tensor(tokenizer.apply_chat_template(row["messages"])["input_ids"])[None]
        with torch.no_grad():
            each = torch.nn.functional.cross_entropy(network(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        for code, loss in zip(speakers.of(tokenizer, row)[1:].tolist(), each.tolist(), strict=True):
            found[code][0] += loss
            found[code][1] += 1
    return found


def test_weight_0_is_cross_entropy_and_1_the_mean_of_all_words(toy):
    found = parts(toy)
    (answers, n), (asked, m) = found[speakers.ASSISTANT], found[speakers.USER]
    plain = value(toy, cross_entropy.loss)
    assert value(toy, bound(weight=0.0)) == value(toy, bound(learn="replies")) == plain
    assert plain == pytest.approx(answers / n, abs=1e-5)
    assert value(toy, bound()) == pytest.approx((answers + asked) / (n + m), abs=1e-5) != pytest.approx(plain, abs=1e-3)
    assert value(toy, bound(weight=0.3)) == pytest.approx((answers + 0.3 * asked) / (n + 0.3 * m), abs=1e-5)


def test_with_all_the_marks_of_the_template_are_learnt_too(toy):
    last_breaks = {"id": "x", "messages": TALKS.column("messages")[0]}
    found = parts(toy, Records.from_rows([last_breaks]))
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    made = read(toy, bound(learn="all"), Records.from_rows([last_breaks]))
    assert IGNORED not in made.labels[1:]
    assert made.tokens.tolist() == tokenizer.apply_chat_template(last_breaks["messages"])["input_ids"]
    whole = sum(loss for loss, _ in found.values()) / sum(n for _, n in found.values())
    assert value(toy, bound(learn="all"), Records.from_rows([last_breaks])) == pytest.approx(whole, abs=1e-5)


def test_what_is_not_learnt_is_the_template(toy):
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    marks = ["<|im_start|>", "user\n", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"]
    count = sum(len(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in marks)
    made = read(toy, bound())
    for start, end in zip(made.offsets, made.offsets[1:], strict=False):
        assert int((made.labels[start:end] == IGNORED).sum()) == count


def test_the_gradient_reaches_positions_of_the_instruction_only_when_it_is_learnt(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    held = []
    network.model.register_forward_hook(lambda module, given, out: held.append(out.last_hidden_state))
    roles = torch.tensor(speakers.of(AutoTokenizer.from_pretrained(toy.path), next(iter(TALKS))))
    for objective, learnt in ((cross_entropy.loss, False), (bound(), True)):
        made = read(toy, objective)
        held.clear()
        loss = objective(network, batch(made, np.arange(1)))
        (gradient,) = torch.autograd.grad(loss, held[0])
        before = torch.nonzero(roles[1:] == speakers.USER)[:, 0]  # what predicts a word of the user
        assert bool((gradient[0, before] != 0).any()) is learnt


def test_without_an_instruction_the_two_are_one(toy):
    data = Records.from_rows([
        {"id": "a", "messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "river falls"}]},
        {"id": "b", "prompt": "", "completion": "valve opens the meter"},
    ])  # fmt: skip
    assert value(toy, bound(), data) == value(toy, cross_entropy.loss, data)


def test_replies_of_weight_0_are_not_learnt_either_way(toy):
    turns = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "valve meter", "weight": 0},
             {"role": "user", "content": "north"}, {"role": "assistant", "content": "south", "weight": 1}]  # fmt: skip
    other = [m | {"content": "gate"} if m.get("weight") == 0 else m for m in turns]
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    for learn in ("words", "all"):
        made = [read(toy, bound(learn=learn), Records.from_rows([{"id": "a", "messages": t}])) for t in (turns, other)]
        learnt = [tokenizer.decode(m.labels[m.labels != IGNORED]) for m in made]
        assert learnt[0] == learnt[1] and "river" in learnt[0] and "valve" not in learnt[0]


def test_a_record_cut_before_its_reply_is_dropped_in_either_mode(toy):
    long = {"role": "user", "content": "river bridge valve " * 20}
    data = Records.from_rows([{"id": "a", "messages": [long, {"role": "assistant", "content": "north"}]},
                              {"id": "b", "messages": TALKS.column("messages")[0]}])  # fmt: skip
    for objective in (cross_entropy.loss, bound()):
        made = read(toy, objective, data, 50)
        assert made.ids == ["b"] and made.dropped == {"no reply within 50 tokens": 1}


def test_a_record_of_which_nothing_is_learnt_is_dropped(toy):
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    chosen = iter([0.0, 1.0] * 3)  # of every second record
    wanted = examples.Wanted(supervise=lambda roles: (roles == speakers.ASSISTANT) * next(chosen))
    made = examples.conversations(tokenizer, TALKS, 64, wanted)
    assert made.ids == TALKS.column("id")[1::2] and made.dropped == {"nothing to learn from": 3}


def test_it_trains_and_instructions_become_likelier_than_without_it(toy, tmp_path):
    def asked_after(objective):
        made = sft.train(toy, maker.questions(24), Setup(
            steps=20, batch=8, objective=objective, parameters="full", length=64,
            optimizer=method("train.optimizer", "optimizer", "adamw", lr=3e-3), work=Work(tmp_path / objective),
        ))  # fmt: skip
        found = parts(made)
        return found[speakers.USER][0] / found[speakers.USER][1]

    assert asked_after("instruction_modelling") < 0.9 * asked_after("cross_entropy")


@pytest.mark.parametrize("option, words", [
    ("weight: -1", r"'weight' must be .*, got -1"), ("weight: 2", "'weight' must be"),
    ("learn: both", "'learn' must be"),
])  # fmt: skip
def test_bad_options_are_refused(toy, option, words):
    text = f"""
a: {{use: model, path: {toy.path}}}
d: {{use: data.ingest.invented, kind: questions}}
b: {{use: train.loop.sft, model: $a, data: $d, steps: 1, objective: {{use: instruction_modelling, {option}}}}}
"""
    with pytest.raises(MetierError, match=f"train.objective.instruction_modelling: {words}"):
        recipe.check(recipe.parse(text))


def test_a_role_nobody_knows_is_refused_with_the_record(toy):
    data = Records.from_rows([{"id": "r3", "messages": [{"role": "narrator", "content": "river"}]}])
    with pytest.raises(MetierError, match=r"record 'r3'.*roles system, user, assistant, tool"):
        read(toy, bound(), data)


def test_packed_texts_are_nobody_s_turn(toy, tmp_path):
    given = Setup(steps=1, objective=bound(), work=Work(tmp_path))
    with pytest.raises(MetierError, match="texts are nobody's turn"):
        pretrain.train(toy, maker.texts(8), given)


@pytest.mark.parametrize("loop", ["pretrain", "head"])
def test_where_nobody_s_turn_is_known_it_is_refused_before_anything_runs(toy, loop):
    text = f"""
a: {{use: model, path: {toy.path}}}
d: {{use: data.ingest.invented}}
b: {{use: train.loop.{loop}, model: $a, data: $d, steps: 1, objective: instruction_modelling}}
"""
    with pytest.raises(MetierError, match=r"instruction_modelling: chooses whose words are learnt, which is not known"):
        recipe.check(recipe.parse(text))


supervise = functools.partial(instruction_modelling.supervise, np.array([0, 1, 2, 3, 4, 5], np.int8))


def test_weights_by_role():
    assert supervise().tolist() == [0, 1, 1, 1, 1, 0]
    assert supervise(weight=0.5).tolist() == [0, 0.5, 0.5, 1, 0.5, 0]
    assert supervise(learn="all", weight=0.5).tolist() == [0.5, 0.5, 0.5, 1, 0.5, 0]
    assert supervise(learn="replies").tolist() == [0, 0, 0, 1, 0, 0]
