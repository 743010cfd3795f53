from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from metier import options
from metier.artefacts import Model, Part, Records
from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.train import units
from metier.train.loop import sft
from metier.train.optimizer import sgd
from metier.train.parameters import das
from metier.train.setup import Network, Setup, method
from stepping import step, weights

DATA = maker.texts(12)
HEADS, INNER, WIDTH = (2, 4), (2, 64), (2, 32)


def importance(folder, **kinds):
    folder.mkdir(exist_ok=True)
    whole = {"head": torch.zeros(HEADS), "ffn": torch.zeros(INNER), "out": torch.zeros(WIDTH)} | kinds
    return units.write(whole, {}, Work(folder))


def fit(toy, folder, **values):
    folder.mkdir(exist_ok=True)
    return das.fit(toy, values.pop("data", DATA), work=Work(folder), **values)


def read(part):
    return load_file(part.path / units.FILE)


def test_adam_takes_back_what_scales_a_gradient_but_not_what_scales_a_step(toy, tmp_path):
    moved = {}
    for of, value in (("step", 0.0), ("gradient", 0.9), ("step", 0.9)):
        ffn = torch.full(INNER, value)
        torch.manual_seed(0)
        part = importance(tmp_path / f"{of}{value}", ffn=ffn)
        made = das.prepare(Network(*load.network(toy), toy), importance=part, of=of)
        before, moves = weights(made), torch.optim.AdamW(made.groups, lr=0.01, weight_decay=0.0)
        step(made, moves)
        name = "model.layers.0.mlp.up_proj.weight"
        moved[of, value] = float((weights(made)[name] - before[name]).abs().mean())
    assert moved["gradient", 0.9] == pytest.approx(moved["step", 0.0], rel=0.01)
    assert moved["step", 0.9] == pytest.approx(0.1 * moved["step", 0.0], rel=0.01)


@pytest.mark.parametrize("of", ["step", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_an_important_head_stays_bit_for_bit(toy, tmp_path, optimizer, of):
    """Card 37 (a), against momentum and weight decay: rows of q, columns of o; rows of k and v with its group."""
    head = torch.zeros(HEADS)
    head[1, 2] = 1
    torch.manual_seed(0)
    made = das.prepare(Network(*load.network(toy), toy), importance=importance(tmp_path, head=head), of=of)
    rate = {"lr": 0.01, "weight_decay": 0.1}
    moves = torch.optim.AdamW(made.groups, **rate) if optimizer == "adamw" else sgd.optimizer(
        made.groups, momentum=0.9, **rate
    )  # fmt: skip
    before = weights(made)
    for number in range(3):
        step(made, moves, number)
    after = weights(made)
    attention, size = "model.layers.1.self_attn.", 8
    for name, rows in (("q", slice(2 * size, 3 * size)), ("k", slice(size, None)), ("v", slice(size, None))):
        same = before[f"{attention}{name}_proj.weight"] == after[f"{attention}{name}_proj.weight"]
        assert bool(same[rows].all()) and float(same.float().mean()) < 0.6
    same = before[f"{attention}o_proj.weight"] == after[f"{attention}o_proj.weight"]
    assert bool(same[:, 2 * size : 3 * size].all()) and float(same.float().mean()) < 0.3
    other = "model.layers.0.self_attn.q_proj.weight"
    assert float((before[other] == after[other]).float().mean()) < 0.05


def test_nothing_important_is_plain_training(toy, tmp_path):
    """Card 37 (b), bit for bit, with weight decay."""
    adamw = method("train.optimizer", "optimizer", "adamw", lr=1e-2, weight_decay=0.1)
    bound = method("train.parameters", "prepare", "das", importance=importance(tmp_path / "part"))

    def train(name, parameters):
        setup = Setup(steps=3, batch=8, optimizer=adamw, parameters=parameters, work=Work(tmp_path / name))
        return sft.train(toy, maker.questions(16), setup)

    assert train("das", bound).digest == train("full", "full").digest != toy.digest


@pytest.mark.parametrize("of", ["step", "gradient"])
def test_steps_and_decay_are_scaled_by_what_is_not_important(toy, tmp_path, of):
    """For plain gradient descent it is the same to scale the gradient."""
    out = torch.zeros(WIDTH)
    out[0, 5], out[0, 6] = 0.75, 1.0
    torch.manual_seed(0)
    made = das.prepare(Network(*load.network(toy), toy), importance=importance(tmp_path, out=out), of=of)
    plain = das.prepare(Network(*load.network(toy), toy), importance=importance(tmp_path / "none"))
    moves = sgd.optimizer(made.groups, lr=0.5, weight_decay=0.1)
    name, before = "model.layers.0.mlp.down_proj.weight", weights(made)
    scaled, whole = step(made, moves), step(plain, sgd.optimizer(plain.groups, lr=0.5), optimize=False)
    kept = torch.ones(32, 1)
    kept[5], kept[6] = 0.25, 0.0
    assert torch.allclose(scaled[name], kept * whole[name] if of == "gradient" else whole[name])
    assert all(torch.equal(scaled[n], whole[n]) for n in whole if n != name)
    wanted = before[name] * (1 - 0.5 * 0.1 * kept) - 0.5 * kept * whole[name]
    assert torch.allclose(weights(made)[name], wanted, atol=1e-7)


def test_only_the_parts_that_are_named_are_protected(toy, tmp_path):
    ones = {"head": torch.ones(HEADS), "ffn": torch.ones(INNER), "out": torch.ones(WIDTH)}
    made = das.prepare(Network(*load.network(toy), toy), importance=importance(tmp_path, **ones), parts=["ffn"])
    before = weights(made)
    step(made, torch.optim.AdamW(made.groups, lr=0.01))
    stayed = {n.rpartition("layers.0.")[2] for n, w in weights(made).items() if torch.equal(w, before[n])}
    assert {n for n in stayed if n.startswith(("mlp", "self"))} == {"mlp.gate_proj.weight", "mlp.up_proj.weight"}


@pytest.mark.parametrize("signal", ["agreement", "loss"])
@pytest.mark.parametrize("absolute", ["each", "after"])
def test_a_look_tells_units_apart_and_is_the_same_again(toy, tmp_path, signal, absolute):
    made = fit(toy, tmp_path / "a", signal=signal, absolute=absolute)
    found = read(made)
    assert {k: tuple(t.shape) for k, t in found.items()} == {"head": HEADS, "ffn": INNER, "out": WIDTH}
    assert all(float(t.std()) > 0.05 and float(t.min()) >= 0 and float(t.max()) <= 1 for t in found.values())
    assert fit(toy, tmp_path / "b", signal=signal, absolute=absolute).digest == made.digest
    assert made.notes["tokens"] > 100 and made.method == das.NAME


def test_what_came_before_is_kept(toy, tmp_path):
    first = fit(toy, tmp_path / "a")
    second = fit(toy, tmp_path / "b", signal="loss", data=maker.texts(12, 5), previous=first)
    alone = fit(toy, tmp_path / "c", signal="loss", data=maker.texts(12, 5))
    for kind, tensor in read(second).items():
        assert torch.equal(tensor, torch.maximum(read(first)[kind], read(alone)[kind]))


def test_a_look_leaves_the_random_state_and_the_model(toy, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(toy, tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def test_what_does_not_fit_is_refused(toy, tmp_path):
    with pytest.raises(MetierError, match=r"train\.parameters\.das: there are no records to look at"):
        fit(toy, tmp_path / "a", data=Records.from_rows([{"id": "a", "text": "x"}]).where([False]))
    network = Network(*load.network(toy), toy)
    other = importance(tmp_path / "b", head=torch.zeros(2, 9))
    with pytest.raises(MetierError, match=r"of another model: its 'head' is 2 × 9, here it is 2 × 4"):
        das.prepare(network, importance=other)
    with pytest.raises(MetierError, match=r"must be made by train\.parameters\.das\.fit, got a part of route\.x"):
        das.prepare(network, importance=Part(other.path, "route.x", other.digest))
    option = next(p for p in options.parameters(das.fit) if p.name == "dropout")
    with pytest.raises(MetierError, match="'dropout' must be greater than 0"):
        options.checked(das.NAME, option, 0)


def test_a_model_that_says_nothing_is_refused(tmp_path):
    """Where all words are equally likely, no two passes differ."""
    silent = maker.write(tmp_path / "model")
    tensors = load_file(silent.path / "model.safetensors")
    tensors["model.embed_tokens.weight"].zero_()
    save_file(tensors, silent.path / "model.safetensors", {"format": "pt"})
    with pytest.raises(MetierError, match="the two passes of the model do not differ"):
        fit(Model(silent.path, "other"), tmp_path / "fit")
