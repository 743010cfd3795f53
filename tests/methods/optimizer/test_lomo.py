from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metier import options, preflight, recipe
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import sft
from metier.train.optimizer import _fused, adalomo, lomo, sgd
from metier.train.run import Run
from metier.train.setup import Setup, method

STEPS = 5


def bound(name="lomo", **values):
    return method("train.optimizer", "optimizer", name, **values)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))


def data(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(12, 6, generator=draw), 5 * torch.randn(12, 1, generator=draw)


def stepped(network, optimizer, file, max_norm=0.0, value=0.0):
    """After some steps; plain optimizers go through a whole gradient, which is clamped and clipped as torch does."""
    for step in range(STEPS):
        x, y = data(step)
        optimizer.zero_grad()
        loss = ((network(x) - y) ** 2).mean()
        if hasattr(file, "backward"):
            file.backward(optimizer, loss)
        else:
            loss.backward()
            if value:
                nn.utils.clip_grad_value_(network.parameters(), value)
            if max_norm:
                nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimizer.step()
    return [p.detach() for p in network.parameters()]


def groups(network):
    """Matrices and vectors; the vectors know no decay."""
    return [{"params": [p for p in network.parameters() if p.dim() > 1]},
            {"params": [p for p in network.parameters() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip


def test_without_clipping_it_is_plain_descent_with_decoupled_decay():
    one, two, three = mlp(), mlp(), mlp()
    ours = stepped(one, lomo.optimizer(groups(one), lr=0.05, weight_decay=0.1), lomo)
    plain = stepped(two, sgd.optimizer(groups(two), lr=0.05, weight_decay=0.1), sgd)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    undecayed = stepped(copy.deepcopy(three), torch.optim.SGD(three.parameters(), lr=0.05), sgd)
    assert not any(torch.equal(a, b) for a, b in zip(ours, undecayed, strict=True))
    bare, torchs = mlp(), mlp()
    ours = stepped(bare, lomo.optimizer(groups(bare), lr=0.05), lomo)
    theirs = stepped(torchs, torch.optim.SGD(torchs.parameters(), lr=0.05), sgd)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_two_passes_clip_as_clip_grad_norm_does(value):
    one, two, free = mlp(), mlp(), mlp()
    made = lomo.optimizer(groups(one), lr=0.05, clip="two_pass", max_norm=0.7, max_value=value or None)
    ours = stepped(one, made, lomo)
    plain = stepped(two, sgd.optimizer(groups(two), lr=0.05), sgd, max_norm=0.7, value=value)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, plain, strict=True))
    unclipped = stepped(free, sgd.optimizer(groups(free), lr=0.05), sgd)
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(ours, unclipped, strict=True))
    assert not made.state


def test_lagged_takes_the_norm_of_the_step_before():
    weight = nn.Parameter(torch.zeros(3))
    made = lomo.optimizer([{"params": [weight]}], lr=1.0, clip="lagged", max_norm=1.0)
    expected, norm = torch.zeros(3), 5.0
    for gradient in (torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 0.5]), torch.tensor([2.0, 0.0, 0.0])):
        lomo.backward(made, (weight * gradient).sum())
        expected -= gradient * min(1.0, 1.0 / (norm + 1e-6))
        norm = float(gradient.norm())
        assert torch.allclose(weight.detach(), expected, atol=1e-6)
    assert float(made.state[weight]["square"]) == 4.0


def numpy_adalomo(weight, gradients, lr, threshold, decay, wd):
    """Adafactor without momentum, written once more."""
    row = column = moment = 0.0
    for t, g in enumerate(gradients, 1):
        beta, u = 1 - t**decay, g * g + 1e-30
        if g.ndim == 2:
            row = beta * row + (1 - beta) * u.mean(1)
            column = beta * column + (1 - beta) * u.mean(0)
            step = g / np.sqrt(row / row.mean())[:, None] / np.sqrt(column)
        else:
            moment = beta * moment + (1 - beta) * u
            step = g / np.sqrt(moment)
        step = step / max(1.0, np.sqrt((step**2).mean()) / threshold)
        rate = lr * max(1e-3, np.sqrt((weight**2).mean()))
        weight = weight * (1 - rate * wd) - rate * step
    return weight


@pytest.mark.parametrize("shape", [(4, 7), (9,), (2, 3, 4)])
def test_adalomo_is_adafactor_without_momentum(shape):
    draw = np.random.default_rng(0)
    sizes = np.array([1, 30, 0.1, 1]).reshape(-1, *[1] * len(shape))
    start, gradients = draw.normal(size=shape), draw.normal(size=(4, *shape)) * sizes
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    given = {"lr": 0.1, "clip_threshold": 0.9, "decay_rate": -0.7, "weight_decay": 0.2}
    made = adalomo.optimizer([{"params": [weight]}], **given)
    for gradient in gradients:
        adalomo.backward(made, (weight * torch.tensor(gradient, dtype=torch.float32)).sum())
    expected = numpy_adalomo(start, gradients, 0.1, 0.9, -0.7, 0.2)
    assert np.allclose(weight.detach().numpy(), expected, atol=1e-6)
    assert sum(t.numel() for t in made.state[weight].values() if isinstance(t, torch.Tensor)) == (
        sum(shape) if len(shape) == 2 else np.prod(shape)
    )


def test_adalomo_goes_down_from_a_weight_that_is_not_zero():
    """The law of optimizers begins at zero, of which this step is a share."""
    goal = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    weight = nn.Parameter(torch.ones(2, 3))
    made = adalomo.optimizer([{"params": [weight]}], lr=0.1)
    for _ in range(60):
        loss = ((weight - goal) ** 2).sum()
        adalomo.backward(made, loss)
    assert float(loss.detach()) < 1.5


@pytest.mark.parametrize("file, values", [(lomo, {}), (lomo, {"clip": "two_pass"}), (adalomo, {})])
def test_no_gradient_and_no_hook_is_left(file, values):
    network = mlp()
    made = file.optimizer(groups(network), **values)
    stepped(network, made, file)
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in network.parameters())
    before = [p.detach().clone() for p in network.parameters()]
    x, y = data(9)
    ((network(x) - y) ** 2).mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_a_backward_that_fails_leaves_no_hook():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ZeroDivisionError

    network = mlp()
    with pytest.raises(ZeroDivisionError):
        lomo.backward(lomo.optimizer(groups(network)), network(Breaks.apply(network[0].weight)[:, :6]).sum())
    assert not any(p._post_accumulate_grad_hooks for p in network.parameters())


def test_one_gradient_is_alive_at_a_time():
    network, alive = mlp(), []
    x, y = data(0)

    def count(weight, group):
        alive.append(sum(p.grad is not None for p in network.parameters()))

    with _fused.one_by_one(lomo.optimizer(groups(network)), count):
        ((network(x) - y) ** 2).mean().backward()
    assert len(alive) == 6 and max(alive) <= 2  # a matrix and the bias of its layer are made together


class Tied(nn.Module):
    """An embedding that is the output head too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.middle = nn.Embedding(11, 5), nn.Linear(5, 5)

    def forward(self, ids):
        return torch.tanh(self.middle(self.table(ids))) @ self.table.weight.t()


def test_a_tied_weight_gets_one_update_with_the_summed_gradient():
    ids, labels = torch.arange(8), torch.arange(1, 9)
    one, two = Tied(), Tied()
    seen = []
    with _fused.one_by_one(lomo.optimizer([{"params": list(one.parameters())}]), lambda w, g: seen.append(w)):
        cross_entropy(one(ids), labels).backward()
    assert sum(w is one.table.weight for w in seen) == 1 and len(seen) == 3
    lomo.backward(lomo.optimizer([{"params": list(one.parameters())}], lr=0.3), cross_entropy(one(ids), labels))
    cross_entropy(two(ids), labels).backward()
    sgd.optimizer([{"params": list(two.parameters())}], lr=0.3).step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("clip", ["none", "two_pass"])
def test_gradient_checkpointing_sees_no_weight_that_has_moved(toy, clip):
    """The toy shares input and output embedding, and each block is computed again in backward."""
    ids = torch.arange(3, 43).reshape(2, 20)
    networks = []
    for optimizer, file, checkpointing in ((lomo, lomo, True), (sgd, sgd, False)):
        network = load.network(toy)[0].train()
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
            assert network.is_gradient_checkpointing
        values = {"clip": clip, "max_norm": 0.5} if file is lomo else {}
        made = optimizer.optimizer([{"params": list(network.parameters())}], lr=0.1, **values)
        for _ in range(3):
            made.zero_grad()
            loss = network(input_ids=ids, labels=ids, use_cache=False).loss
            if file is lomo:
                lomo.backward(made, loss)
            else:
                loss.backward()
                if clip == "two_pass":
                    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            made.step()
        networks.append(network)
    for a, b in zip(*(n.parameters() for n in networks), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_weights_of_half_precision_move_in_float32_and_are_rounded():
    weight = nn.Parameter(torch.tensor([1.0, -3.0], dtype=torch.bfloat16))
    made = lomo.optimizer([{"params": [weight]}], lr=0.1, weight_decay=0.5)
    lomo.backward(made, (weight * torch.tensor([0.3, 0.7], dtype=torch.bfloat16)).sum())
    gradient = torch.tensor([0.3, 0.7], dtype=torch.bfloat16).float()
    assert torch.equal(weight.detach(), (torch.tensor([1.0, -3.0]) * 0.95 - 0.1 * gradient).bfloat16())


def setup(folder, optimizer, progress=silent, **changes):
    given = {"steps": 6, "batch": 4, "micro_tokens": 4000, "length": 64, "parameters": "full", "max_grad_norm": 0.0,
             "checkpoint_every": 1e-6}  # fmt: skip
    return Setup(**(given | changes), optimizer=optimizer, work=Work(folder, progress))


def test_the_loop_trains_with_it_as_with_plain_descent(toy, tmp_path):
    runs = [
        Run(toy, maker.questions(24), setup(tmp_path / name, bound(name, lr=0.1)), examples.conversations, "test")
        for name in ("lomo", "sgd")
    ]
    for _ in runs[0].plan:
        rows = [run.step() for run in runs]
        assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-6) and rows[0]["lr"] == rows[1]["lr"]
        assert rows[0]["grad_norm"] == 0 < rows[1]["grad_norm"]
    assert all(torch.allclose(w, runs[1].weights[n], atol=1e-6) for n, w in runs[0].weights.items())


@pytest.mark.parametrize("optimizer", [
    bound("adalomo", lr=1e-2), bound(lr=0.1), bound(lr=0.1, clip="two_pass"), bound(lr=0.1, clip="lagged"),
])  # fmt: skip
def test_killed_it_ends_with_the_same_bytes(toy, tmp_path, optimizer):
    def train(name, progress=silent):
        return sft.train(toy, maker.questions(24), setup(tmp_path / name, optimizer, progress))

    whole = train("whole")
    assert whole.notes["loss"]["last"] < whole.notes["loss"]["first"]
    with pytest.raises(Interrupt):
        train("killed", Stopping(4))
    assert train("killed").digest == whole.digest


def test_it_trains_beside_frozen_weights(toy, tmp_path):
    some = method("train.parameters", "prepare", "freeze", train=["model.layers.1.*"])
    made = sft.train(toy, maker.questions(24), setup(tmp_path, bound("adalomo"), parameters=some))
    before, after = (load.network(m)[0].state_dict() for m in (toy, made))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved and all(n.startswith("model.layers.1.") for n in moved)


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
@pytest.mark.parametrize("changes, words", [
    ({"max_grad_norm": 1.0}, "needs max_grad_norm 0, got 1.0"),
    ({"micro_tokens": 60}, "takes a whole step in 1 micro-batch; raise 'micro_tokens' or lower 'batch'"),
])  # fmt: skip
def test_what_needs_whole_gradients_is_refused(toy, tmp_path, name, changes, words):
    with pytest.raises(MetierError, match=rf"train\.optimizer\.{name}: {words}"):
        Run(toy, maker.questions(24), setup(tmp_path, bound(name), **changes), examples.conversations, "test")


def test_a_run_is_said_to_take_no_gradients_and_no_state(toy):
    def memory(optimizer, norm):
        step = f"b: {{use: train.loop.pretrain, model: $a, data: $t, steps: 1, batch: 1, length: 64, parameters: full, \
max_grad_norm: {norm}, optimizer: {optimizer}}}"
        text = f"a: {{use: model, path: {toy.path}}}\nt: data.ingest.general_text\n{step}"
        return preflight.foresee(recipe.check(recipe.parse(text))).needs[-1].memory

    network = load.network(toy)[0]
    weights, largest = sum(p.numel() for p in network.parameters()), network.get_input_embeddings().weight.numel()
    assert memory("adamw", 1) - memory("lomo", 0) == pytest.approx(4 * (3 * weights - 2 * largest), abs=2)


def test_a_recipe_is_refused_before_it_runs(toy):
    def check(options):
        step = f"b: {{use: train.loop.pretrain, model: $a, data: $t, steps: 1, {options}}}"
        recipe.check(recipe.parse(f"a: {{use: model, path: {toy.path}}}\nt: data.ingest.general_text\n{step}"))

    with pytest.raises(MetierError, match=r"lomo: needs max_grad_norm 0, got 1\.0"):
        check("optimizer: lomo")
    for file, name, value in ((lomo, "clip", "twice"), (lomo, "max_norm", 0), (adalomo, "decay_rate", 0.5)):
        known = {p.name: p for p in options.parameters(file.optimizer)}
        with pytest.raises(MetierError, match=f"'{name}' must be"):
            options.checked(file.__name__, known[name], value)
