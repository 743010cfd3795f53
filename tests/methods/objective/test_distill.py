from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import AutoModelForCausalLM

import taught
from metier.artefacts import Model
from metier.disk import files_digest
from metier.laws import toy as maker
from metier.lm import load
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.steps import fresh
from metier.store import Work
from metier.train.loop import sft
from metier.train.objective import distill
from metier.train.setup import Setup, method


def by_hand(student, teacher, labels, temperature=1.0, alpha=1.0, skew=0.0):
    p, q = softmax(teacher / temperature, -1), softmax(student / temperature, -1)
    mixed = skew * p + (1 - skew) * q
    divergence = temperature**2 * (p * (p.log() - mixed.log())).sum(-1).mean()
    return alpha * divergence + (1 - alpha) * cross_entropy(student, labels)


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"alpha": 0.3}, {"skew": 0.1, "temperature": 0.5}])
@pytest.mark.parametrize("tied", [True, False])
def test_value_and_gradient_are_the_formula_s_however_it_is_chunked(options, tied, tmp_path, monkeypatch):
    network, tokenizer = taught.opened(maker.write(tmp_path / "model", tied=tied))
    batch = taught.batch_of(taught.talk(tokenizer))
    teacher = taught.moved(network)
    memory = distill.start(network, iter([]), tokenizer)
    memory["teacher"].network = teacher.eval()
    student, labels = taught.all_logits(network, batch)
    with torch.no_grad():
        wanted_of, _ = taught.all_logits(teacher, batch)
    expected = by_hand(student, wanted_of, labels, **options)
    slopes = taught.gradient(network, expected)
    for rows in (1000, 7):
        monkeypatch.setattr(lm_loss, "BYTES_A_CHUNK", rows * 4 * student.shape[-1])
        value = distill.loss(network, batch, memory, **options)
        assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
        assert taught.same(taught.gradient(network, value), slopes)


def test_it_is_torch_s_own_divergence_and_nothing_when_both_are_one(toy):
    network, tokenizer = taught.opened(toy)
    batch = taught.batch_of(taught.talk(tokenizer))
    memory = distill.start(network, iter([]), tokenizer)
    assert float(distill.loss(network, batch, memory).detach()) == pytest.approx(0, abs=1e-6)
    student = taught.moved(network)
    with torch.no_grad():
        q, p = (log_softmax(taught.all_logits(n, batch)[0], -1) for n in (student, network))
        theirs = kl_div(q, p, log_target=True, reduction="batchmean")
    assert float(distill.loss(student, batch, memory).detach()) == pytest.approx(float(theirs), abs=1e-5)


def test_logits_that_only_fill_up_a_matrix_do_not_count(toy, tmp_path):
    """Two sizes of one family have one vocabulary and matrices of different heights."""
    wide = AutoModelForCausalLM.from_pretrained(maker.write(tmp_path / "other", seed=1).path)
    tokenizer = load.tokenizer_of(toy)
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    wide.resize_token_embeddings(len(tokenizer) + 32)
    with torch.no_grad():
        wide.get_input_embeddings().weight[len(tokenizer) :] = 3.0
    found = {}
    for name, teacher in (("wide", wide), ("narrow", narrow)):
        teacher.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        model = Model(tmp_path / name, files_digest(tmp_path / name))
        network, own = taught.opened(toy)
        batch = taught.batch_of(taught.talk(own))
        found[name] = float(distill.loss(network, batch, distill.start(network, iter([]), own, model)).detach())
    assert found["wide"] == pytest.approx(found["narrow"], abs=1e-6) and found["wide"] > 0.1


def test_a_teacher_of_other_words_is_one_sentence(toy, tmp_path):
    other = fresh.run(layers=1, width=32, heads=2, vocabulary=300, data=maker.texts(4), work=Work(tmp_path / "other"))
    setup = Setup(steps=1, objective=method("train.objective", "loss", "distill", teacher=other), work=Work(tmp_path))
    with pytest.raises(MetierError, match=r"^train\.objective\.distill: the teacher has another vocabulary: "):
        sft.train(toy, maker.questions(8), setup)


def test_it_brings_the_student_to_its_teacher(toy, tmp_path):
    other = maker.write(tmp_path / "other", seed=1)
    setup = Setup(
        steps=40, parameters="full", optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2),
        objective=method("train.objective", "loss", "distill", teacher=other), work=Work(tmp_path / "t"),
    )  # fmt: skip
    made = sft.train(toy, maker.questions(16), setup)
    assert made.notes["loss"]["last"] < 0.5 * made.notes["loss"]["first"]
