from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy, softmax

import taught
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.options import MetierError
from metier.steps import fresh
from metier.store import Work, silent
from metier.train.loop import pretrain, sft
from metier.train.objective import distill, logit_swap
from metier.train.setup import Setup, method


def value(network, batch, memory, **options):
    return logit_swap.loss(network, batch, memory, **options)


def begun(network, tokenizer, batches=(), **options):
    return logit_swap.start(network, iter(batches), tokenizer, **options)


def test_the_two_logits_change_places_and_nothing_else():
    assert logit_swap.swap(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([2])).tolist() == [[0.0, 1.0, 3.0]]
    assert logit_swap.swap(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])).tolist() == [[3.0, 1.0, 0.0]]
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 20
    swapped = logit_swap.swap(logits, labels)
    assert (swapped.argmax(-1) == labels).all()
    assert torch.allclose(Categorical(logits=swapped).entropy(), Categorical(logits=logits).entropy(), atol=1e-6)
    assert torch.equal(swapped.sort(-1).values, logits.sort(-1).values)


def test_where_the_teacher_is_right_it_is_plain_distillation(toy):
    network, tokenizer = taught.opened(toy)
    batch = taught.batch_of(taught.talk(tokenizer))
    with torch.no_grad():
        likeliest = network(input_ids=batch.input_ids).logits.argmax(-1)
    batch.labels[:, 1:] = likeliest[:, :-1].where(batch.labels[:, 1:] != -100, -100)
    memory = begun(network, tokenizer)
    assert float(value(network, batch, memory, mode="replace").detach()) == pytest.approx(0, abs=1e-6)
    student = taught.moved(network)
    plain = distill.loss(student, batch, distill.start(network, iter([]), tokenizer))
    assert float(value(student, batch, memory, mode="replace").detach()) == pytest.approx(
        float(plain.detach()), abs=1e-6
    )
    assert float(plain.detach()) > 0.01


@pytest.mark.parametrize("options", [{}, {"mode": "replace", "temperature": 2.0}, {"alpha": 0.7, "temperature": 0.5}])
def test_value_and_gradient_are_the_formula_s_over_supervised_tokens(options, toy):
    network, tokenizer = taught.opened(toy)
    batch = taught.batch_of(taught.talk(tokenizer))
    student = taught.moved(network)
    own, labels = taught.all_logits(student, batch)
    assert len(labels) == batch.tokens_in_step < batch.labels.numel()
    with torch.no_grad():
        u = taught.all_logits(network, batch)[0]
    for row, label in enumerate(labels.tolist()):  # by hand, one by one
        most = int(u[row].argmax())
        u[row, label], u[row, most] = u[row, most].clone(), u[row, label].clone()
    t = options.get("temperature", 1.0)
    p, logq = softmax(u / t, -1), torch.log_softmax(own / t, -1)
    expected = t**2 * (p * (p.log() - logq)).sum(-1).mean()
    if options.get("mode") != "replace":
        expected = cross_entropy(own, labels) + options.get("alpha", 0.3) * expected
    found = value(student, batch, begun(network, tokenizer), **options)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert taught.same(taught.gradient(student, found), taught.gradient(student, expected))


def test_noted_words_are_the_likeliest_and_the_rest_is_one(toy):
    network, tokenizer = taught.opened(toy)
    examples = taught.talk(tokenizer, 8)
    batch = taught.batch_of(examples)
    student = taught.moved(network)
    whole = value(student, batch, begun(network, tokenizer), temperature=2.0, mode="replace")
    parts = [taught.batch_of(examples, torch.arange(8).numpy()[rows]) for rows in (slice(5, 8), slice(0, 5))]
    words = len(tokenizer)
    every = begun(network, tokenizer, parts, top=words, temperature=2.0)
    found = value(student, batch, every, top=words, temperature=2.0, mode="replace")
    assert float(found.detach()) == pytest.approx(float(whole.detach()), abs=1e-5)
    few = begun(network, tokenizer, parts, top=3)
    assert few["ids"].shape == (batch.tokens_in_step, 3) and few["ids"].dtype == torch.int32
    with torch.no_grad():
        u, labels = taught.all_logits(network, batch)
        p, q = (softmax(logits, -1) for logits in (logit_swap.swap(u, labels), taught.all_logits(student, batch)[0]))
    top = p.topk(3).indices
    p, q = (torch.cat([x.gather(1, top), 1 - x.gather(1, top).sum(1, keepdim=True)], 1) for x in (p, q))
    expected = float((p * (p / q).log()).sum(1).mean())
    found = value(student, batch, few, top=3, mode="replace")
    assert float(found.detach()) == pytest.approx(expected, abs=1e-4)


def test_bad_input_is_one_sentence(toy, tmp_path):
    other = fresh.run(layers=1, width=32, heads=2, vocabulary=300, data=maker.texts(4), work=Work(tmp_path / "other"))
    for options, sentence in (({"teacher": other}, "the teacher has another vocabulary"),
                              ({"top": 10**6}, "'top' must be at most")):  # fmt: skip
        objective = method("train.objective", "loss", "logit_swap", **options)
        with pytest.raises(MetierError, match=rf"^train\.objective\.logit_swap: {sentence}"):
            sft.train(toy, maker.questions(8), Setup(steps=1, objective=objective, work=Work(tmp_path / "run")))


@pytest.mark.parametrize("top", [None, 8])
def test_killed_and_gone_on_it_ends_with_the_same_bytes(top, toy, tmp_path):
    """The teacher is the start, also for a run that goes on from a checkpoint."""

    def train(name, progress=silent):
        return pretrain.train(toy, maker.texts(30), Setup(
            steps=6, batch=3, length=32, micro_tokens=70, checkpoint_every=1e-6, parameters="full",
            objective=method("train.objective", "loss", "logit_swap", top=top), work=Work(tmp_path / name, progress),
        ))  # fmt: skip

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(3))
    assert train("killed").digest == whole.digest
