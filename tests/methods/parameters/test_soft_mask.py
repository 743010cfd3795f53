from __future__ import annotations

import itertools

import pytest
import torch

from metier import options
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import sft
from metier.train.parameters import _rows, soft_mask
from metier.train.run import Run
from metier.train.setup import Network, Setup, method
from stepping import step

DATA = maker.questions(24)


def bound(**values):
    return method("train.parameters", "prepare", "soft_mask", **values)


def setup(folder, progress=silent, **changes):
    """Three steps an epoch."""
    given = {"epochs": 3, "batch": 8, "micro_tokens": 100, "checkpoint_every": 1e-6, "parameters": bound(beta=2.0)}
    adamw = method("train.optimizer", "optimizer", "adamw", lr=1e-2)
    return Setup(**(given | {"optimizer": adamw} | changes), work=Work(folder, progress))


def prepared(toy, data=DATA, **values):
    torch.manual_seed(0)
    return soft_mask.prepare(Network(*load.network(toy), toy), data, **values)


def test_the_sharpness_goes_from_a_coin_to_the_most_important():
    """Card 28 (b)."""
    ranks = torch.linspace(0, 1, 101)
    assert soft_mask.probabilities(ranks, 0.9, 0.0).tolist() == [0.5] * 101
    hard = soft_mask.probabilities(ranks, 0.905, 1e6)
    assert hard.tolist() == [0.0] * 91 + [1.0] * 10
    assert float(soft_mask.probabilities(torch.tensor(0.7), 0.6, 1.0)) == pytest.approx(1 / (1 + 2.718281828**-0.2))


def test_what_moves_is_divided_by_its_probability():
    """Card 28 (c): the mean of M / p is 1, as long as 1 / p is not capped."""
    draw = torch.Generator().manual_seed(0)
    for p in (0.9, 0.5, 0.1, 0.02):
        found = soft_mask.factors(torch.full((200_000,), p), 1e3, draw)
        assert float(found.mean()) == pytest.approx(1, abs=5 * ((1 - p) / p / 200_000) ** 0.5)
        assert sorted(set(found.tolist())) == pytest.approx([0, 1 / p])
    capped = soft_mask.factors(torch.full((200_000,), 1e-3), 10.0, draw)
    assert sorted(set(capped.tolist())) == pytest.approx([0, 10])
    plain = soft_mask.factors(torch.full((1000,), 0.5), None, draw)
    assert set(plain.tolist()) == {0.0, 1.0}


def looked(toy):
    """By hand: the squared gradient of each step of 16 rows, summed."""
    network, tokenizer = load.network(toy)
    found = {n: torch.zeros_like(p) for n, p in network.named_parameters()}
    for window in _rows.steps("test", network, tokenizer, DATA, 10**6):
        network.zero_grad()
        for batch in window:
            picked = lm_loss.supervised(network, batch.input_ids, batch.labels)
            (picked.loss() / batch.tokens_in_step).backward()
        for n, p in network.named_parameters():
            found[n] += p.grad**2
    return found


def test_the_first_mask_is_that_of_the_squared_gradients_of_the_data(toy, tmp_path):
    run = Run(toy, DATA, setup(tmp_path, parameters=bound(alpha=0.8, beta=1e6, unbiased=False)),
              examples.conversations, "test")  # fmt: skip
    run.step()
    squares = {n: s for n, s in looked(toy).items() if "layers" in n}
    flat = torch.cat([s.flatten() for s in squares.values()])
    border = flat.sort().values[round(0.8 * len(flat))]
    state = run.trainable.state()
    masks = {n.removeprefix("factor."): f for n, f in state.items() if n.startswith("factor.")}
    assert masks.keys() == squares.keys()  # neither embedding nor last norm: card 28 (d)
    differ = sum(int(((squares[n] >= border) != (masks[n] > 0)).sum()) for n in masks)
    assert differ <= 0.002 * len(flat)  # equal squares share a rank, and the border falls between them
    assert run.trainable.state()["squares.model.layers.0.mlp.up_proj.weight"].max() > 0  # of the step, for the next


def test_embedding_and_head_are_never_masked_and_the_rest_is(toy):
    """Card 28 (d), also with a pattern that fits everything."""
    made, plain = (prepared(toy, beta=b, scope=["*"]) for b in (0.0, 0.0))
    for one in (made, plain):
        one.before_batch(next(iter(_rows.steps("test", one.network.module, one.network.tokenizer, DATA, 99)))[0])
    optimizer = torch.optim.SGD(made.groups, lr=0.1)
    whole = {n: p.detach().clone() for n, p in plain.network.module.named_parameters()}
    ids = (torch.arange(24)[None] * 3 + 7 * torch.arange(2)[:, None]) % 40
    plain.network.module(input_ids=ids, labels=ids).loss.backward()
    whole = {n: p.grad for n, p in plain.network.module.named_parameters()}
    gradients = step(made, optimizer, optimize=False)
    for name, gradient in gradients.items():
        if "layers" not in name:
            assert torch.equal(gradient, whole[name]), name
        elif gradient.dim() > 1:
            assert 0.4 < float((gradient == 0).float().mean()) < 0.6
            kept = gradient != 0
            assert torch.allclose(gradient[kept], 2 * whole[name][kept])


def test_each_epoch_draws_anew_and_keeps_its_mask(toy, tmp_path):
    run = Run(toy, DATA, setup(tmp_path), examples.conversations, "test")
    seen = []
    for _ in run.plan:
        run.step()
        name = "factor.model.layers.0.mlp.up_proj.weight"
        seen.append(run.trainable.state()[name].clone())
    same = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert same == [True, True, False, True, True, False, True, True]


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_killed_in_any_epoch_it_goes_on_with_the_same_mask(toy, tmp_path, steps):
    def train(name, progress=silent):
        return sft.train(toy, DATA, setup(tmp_path / name, progress, dev=maker.questions(4, 1), evaluate_every=4))

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(steps))
    again = train("killed")
    assert again.digest == whole.digest and again.notes["soft_mask"] == whole.notes["soft_mask"]


def test_notes_tell_what_moved_and_what_was_capped(toy, tmp_path):
    made = sft.train(toy, DATA, setup(tmp_path / "a", parameters=bound(alpha=0.9, beta=1e6)))
    assert made.notes["soft_mask"] == {"moved": pytest.approx(0.1, abs=0.005), "capped": 0.0}
    made = sft.train(toy, DATA, setup(tmp_path / "b", parameters=bound(alpha=0.5, beta=3.0, cap=1.5)))
    assert 0.1 < made.notes["soft_mask"]["capped"] < made.notes["soft_mask"]["moved"]


@pytest.mark.parametrize("data", [maker.texts(8), Records.from_rows(
    {"id": str(i), "prompt": "north", "replies": ["river rises", "valve"], "scores": [1.0, 0.0]} for i in range(4)
)])  # fmt: skip
def test_texts_and_preferences_are_looked_at_too(toy, data):
    made = prepared(toy, data)
    batch = next(iter(_rows.steps("test", made.network.module, made.network.tokenizer, data, 50)))[0]
    made.before_batch(batch)
    assert made.state()["epoch"] == 0


@pytest.mark.parametrize(("name", "value", "words"), [
    ("alpha", 0, "greater than 0"), ("alpha", 1, "less than 1"), ("beta", -1, "at least 0"), ("cap", 0.5, "at least 1"),
])  # fmt: skip
def test_options_out_of_range_are_refused(name, value, words):
    option = next(p for p in options.parameters(soft_mask.prepare) if p.name == name)
    with pytest.raises(MetierError, match=f"soft_mask: '{name}' must be {words}"):
        options.checked(soft_mask.NAME, option, value)


def test_a_scope_that_fits_nothing_and_no_data_are_refused(toy):
    with pytest.raises(MetierError, match=r"no tensor of a block is called 'encoder\*'; names look like model\.layers"):
        prepared(toy, scope=["encoder*"])
    with pytest.raises(MetierError, match=r"soft_mask: there are no records to look at"):
        prepared(toy, Records.from_rows([{"id": "a", "text": "x"}]).where([False]))
