from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import sft
from metier.train.parameters import _sparse, spiel
from metier.train.run import Run
from metier.train.setup import Network, Setup, method

OPTIMIZERS = {"gradient": "sparse_adamw", "momentum": "sm3", "never": "adamw"}
RATES = {"gradient": 1e-2, "momentum": 1e-1, "never": 1e-2}
IDS = torch.arange(3, 23)[None]


def bound(**values):
    return method("train.parameters", "prepare", "spiel", **({"density": 0.05} | values))


def run(toy, folder, grow="gradient", steps=12, micro_tokens=4000, optimizer=None, progress=silent, **values):
    optimizer = optimizer or method("train.optimizer", "optimizer", OPTIMIZERS[grow], lr=RATES[grow])
    return Run(toy, maker.texts(40), Setup(
        steps=steps, batch=8, length=32, micro_tokens=micro_tokens, parameters=bound(grow=grow, **values),
        optimizer=optimizer, work=Work(folder, progress),
    ), examples.packed, "test")  # fmt: skip


def matrices(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, _sparse.SparseLinear)}


def layer(k=6, bias=True):
    torch.manual_seed(1)
    plain = torch.nn.Linear(5, 4, bias=bias)
    return plain, _sparse.SparseLinear(plain, torch.randperm(20)[:k].sort().values)


@torch.no_grad()
def logits(module):
    return module.eval()(IDS).logits


def test_at_the_start_logits_are_those_of_the_base(toy):
    network = Network(*load.network(toy), toy)
    before = logits(network.module)
    made = spiel.prepare(network, density=0.1, grow="never")
    assert torch.equal(logits(made.network.module), before)
    found = matrices(made.network.module)
    assert len(found) == 14 and not any("lm_head" in n or "embed" in n for n in found)
    for matrix in found.values():
        assert len(matrix.indices) == int(0.1 * matrix.weight.numel()) == len(set(matrix.indices.tolist()))
        assert torch.equal(matrix.indices, matrix.indices.sort().values) and matrix.indices.dtype == torch.int32


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_of_a_change_is_that_of_the_matrix_there(bias):
    plain, sparse = layer(bias=bias)
    with torch.no_grad():
        sparse.values.copy_(torch.randn(6))
    whole = copy.deepcopy(plain)
    with torch.no_grad():
        whole.weight.copy_(_sparse.changed(sparse.weight, sparse.values, sparse.indices))
    inputs = [torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in (0, 1)]
    shown = []
    sparse.watch = shown.append
    for made, x in zip((whole, sparse), inputs, strict=True):
        made(x).square().sum().backward()
    assert torch.allclose(sparse(inputs[1]), whole(inputs[0]))
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    assert torch.allclose(shown[0], whole.weight.grad, atol=1e-5)
    assert torch.allclose(sparse.values.grad, whole.weight.grad.view(-1)[sparse.indices.long()], atol=1e-5)
    base = plain.weight.detach().clone()
    for place, gradient in zip(range(6), sparse.values.grad.tolist(), strict=True):  # finite differences
        sides = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                sparse.values[place] += step
                sides.append(float(sparse(inputs[1].detach()).double().square().sum()))
                sparse.values[place] -= step
        assert gradient == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=2e-2, abs=2e-2)
    assert torch.equal(plain.weight, base)


def test_in_half_precision_it_is_near(toy):
    plain, sparse = layer()
    x = torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = sparse(x)
    assert y.dtype == torch.bfloat16 and torch.allclose(y.float(), plain(x), atol=0.05)
    y.sum().backward()
    assert sparse.values.grad.dtype == torch.float32


@pytest.mark.parametrize("grow", ["gradient", "momentum"])
def test_after_each_exchange_places_are_unique_and_survivors_keep_what_they_had(toy, tmp_path, grow):
    r = run(toy, tmp_path, grow, every=3, collect=1)
    held = {}

    def stepped(optimizer, *_):
        for name, m in matrices(r.network).items():
            state = {k: v.clone() for k, v in optimizer.state[m.values].items() if k not in ("row", "column")}
            held[name] = m.indices.clone(), m.values.detach().clone(), state

    r.optimizer.register_step_post_hook(stepped)
    moved = []
    for _ in r.plan:
        r.step()
        changed = 0
        for name, matrix in matrices(r.network).items():
            places, values, state = held[name]
            assert len(set(matrix.indices.tolist())) == len(places) == len(matrix.values)
            assert int(matrix.indices.min()) >= 0 and int(matrix.indices.max()) < matrix.weight.numel()
            same = matrix.indices == places
            assert torch.equal(matrix.values[same], values[same]) and (matrix.values[~same] == 0).all()
            for key, kept in state.items():
                assert torch.equal(r.optimizer.state[matrix.values][key][same], kept[same])
            changed += int((~same).sum())
        moved.append(changed)
    due = {0, 3, 6, 9} if grow == "gradient" else {2, 5, 8}
    assert {i for i, count in enumerate(moved) if count} == due  # momentum: at the last step p is 0
    total = sum(len(m.values) for m in matrices(r.network).values())
    if grow == "gradient":
        assert moved[0] > 0.5 * total  # p is 1 at first, and few random places are among the largest
    assert all(count <= 0.2 * total for count in moved[1:])


def test_gradients_are_summed_where_the_first_micro_batch_had_its_largest(toy, tmp_path):
    """Sums, their squares and the moments of new places against dense gradients of whole steps."""
    r = run(toy, tmp_path, every=10, collect=3, micro_tokens=70, replace=0.5)
    assert len(r.feed.cut(r.plan[0])) > 2
    name, matrix = next(iter(matrices(r.network).items()))
    dense, first, watch = [], [], matrix.watch
    before = matrix.indices.clone()

    def see(gradient):
        first.append(gradient.clone())
        watch(gradient)

    matrix.watch = see
    for _ in range(3):
        first.clear()
        places = r.trainable.after_step.__self__.found[name].places
        r.step()
        if not len(places):
            candidates = first[0].abs().view(-1).topk(len(matrix.values)).indices
        dense.append(sum(first).view(-1))
    total, squares = sum(dense), sum(g.square() for g in dense)
    new = ~torch.isin(matrix.indices, before)
    assert new.any() and set(matrix.indices[new].tolist()) <= set(candidates.tolist())
    stayed = set(before.tolist()) & set(candidates.tolist())
    assert set(matrix.indices.tolist()) == set(candidates.tolist()) and stayed < set(candidates.tolist())
    at, state = matrix.indices[new].long(), r.optimizer.state[matrix.values]
    assert state["age"][new].tolist() == [3.0] * int(new.sum())
    assert torch.allclose(state["exp_avg"][new], total[at] / 3 * (1 - 0.9**3), atol=1e-8)
    assert torch.allclose(state["exp_avg_sq"][new], squares[at] / 3 * (1 - 0.999**3), atol=1e-10)


def test_a_new_number_is_as_old_as_the_steps_that_were_summed(toy, tmp_path):
    """The first sum begins with the training, the later ones one step before a multiple of `every`."""
    r = run(toy, tmp_path, every=4, collect=2)
    for _ in range(6):
        before = {n: m.indices.clone() for n, m in matrices(r.network).items()}
        r.step()
        new = [r.optimizer.state[m.values]["age"][m.indices != before[n]] for n, m in matrices(r.network).items()]
        ages = set(torch.cat(new).tolist())
        assert ages == ({2.0} if r.state.step == 2 else {3.0} if r.state.step == 6 else set())


def test_more_micro_batches_may_propose(toy, tmp_path):
    places = []
    for batches in (1, 3):
        r = run(toy, tmp_path / str(batches), every=10, collect=2, micro_tokens=70, candidate_batches=batches)
        r.step()
        found = r.trainable.after_step.__self__.found
        assert all(len(c.places) == c.count == len(set(c.places.tolist())) for c in found.values())
        places.append(next(iter(found.values())).places.sort().values)
    assert not torch.equal(*places)


def test_the_smallest_go_and_the_best_come():
    _, matrix = layer(k=4)
    with torch.no_grad():
        matrix.indices.copy_(torch.tensor([1, 5, 9, 13]))
        matrix.values.copy_(torch.tensor([0.5, -0.1, 0.2, -0.9]))
    # of four, three may go: 5, 9, 1. 9 comes too, so it is left untouched; 13 stays, so it cannot come
    at, coming = _sparse.exchange(matrix, 0.75, torch.tensor([13, 9, 2, 7, 4], dtype=torch.int32))
    assert at.tolist() == [1, 0] and coming.tolist() == [2, 3]
    assert matrix.indices.tolist() == [7, 2, 9, 13]
    assert matrix.values.tolist() == pytest.approx([0, 0, 0.2, -0.9])
    # fewer candidates than may go: only as many go
    at, _ = _sparse.exchange(matrix, 1.0, torch.tensor([3], dtype=torch.int32))
    assert len(at) == 1 and 3 in matrix.indices.tolist()
    assert _sparse.exchange(matrix, 0.2, torch.tensor([0], dtype=torch.int32))[0].tolist() == []  # ⌊0.2 · 4⌋ = 0


def test_momentum_grows_where_rows_and_columns_are_large():
    _, matrix = layer(k=4)
    with torch.no_grad():
        matrix.indices.copy_(torch.tensor([0, 1, 2, 3]))
        matrix.values.copy_(torch.tensor([0.4, 0.1, 0.3, 0.2]))
    state = {"row": torch.tensor([9.0, 1.0, 5.0, 0.0]), "column": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])}
    spiel.by_momentum(matrix, state, 0.5)
    assert matrix.indices.tolist() == [0, 4, 2, 14] or matrix.indices.tolist() == [0, 14, 2, 4]
    assert sorted(matrix.values.tolist()) == pytest.approx([0, 0, 0.3, 0.4])


def test_the_share_falls_to_nothing_at_the_end():
    for decay in ("linear", "cosine"):
        assert spiel.given_up(0.0, 0.2, decay) == pytest.approx(0.2)
        assert spiel.given_up(1.0, 0.2, decay) == pytest.approx(0, abs=1e-15)
    assert spiel.given_up(0.25, 0.2, "linear") == pytest.approx(0.15)
    assert spiel.given_up(0.5, 0.2, "cosine") == pytest.approx(0.1)


def test_folded_in_and_out_again_the_matrix_is_as_it_was(toy, tmp_path):
    r = run(toy, tmp_path, "never")
    before = {n: m.weight.detach().clone() for n, m in matrices(r.network).items()}
    for _ in range(3):
        r.step()
    found, said = matrices(r.network), logits(r.network)
    with _sparse.folded(r.network, found):
        assert not matrices(r.network)
        assert torch.allclose(logits(r.network), said, atol=1e-6)
        assert all(not torch.equal(m.weight, before[n]) for n, m in found.items())
    assert all(torch.equal(m.weight, before[n]) for n, m in found.items())
    assert torch.equal(logits(r.network), said)


def test_with_everything_changing_a_step_is_one_of_full_training(toy, tmp_path):
    sgd = method("train.optimizer", "optimizer", "sgd", lr=0.1)
    ours = run(toy, tmp_path / "a", "never", density=1.0, optimizer=sgd)
    keep = ["*norm*", "*embed*"]
    theirs = Run(toy, maker.texts(40), Setup(
        steps=12, batch=8, length=32, micro_tokens=4000, optimizer=sgd, work=Work(tmp_path / "b"),
        parameters=method("train.parameters", "prepare", "freeze", train=["*"], keep=keep),
    ), examples.packed, "test")  # fmt: skip
    assert ours.step()["loss"] == theirs.step()["loss"]
    with _sparse.folded(ours.network, matrices(ours.network)):
        changed = dict(ours.network.named_parameters())
        for name, weight in theirs.network.named_parameters():
            assert torch.allclose(weight, changed[name], atol=1e-6), name


@pytest.mark.parametrize("grow", ["gradient", "momentum"])
def test_killed_at_any_step_it_ends_with_the_same_bytes(toy, tmp_path, grow):
    def train(name, progress=silent):
        optimizer = method("train.optimizer", "optimizer", OPTIMIZERS[grow], lr=RATES[grow])
        return sft.train(toy, maker.questions(24), Setup(
            steps=8, batch=8, micro_tokens=100, checkpoint_every=1e-6, optimizer=optimizer,
            parameters=bound(grow=grow, every=3, collect=2), work=Work(tmp_path / name, progress),
        ))  # fmt: skip

    whole = train("whole")
    for steps in range(1, 8):  # killed in every step, in the middle of every sum
        with pytest.raises(Interrupt):
            train("killed", Stopping(steps))
        saved = sorted((tmp_path / "killed" / "checkpoints").glob("step-*"))
        assert [int(p.name[-1]) for p in saved][-1:] == [steps - 1][: steps - 1]
    assert train("killed").digest == whole.digest


def test_the_result_is_a_plain_model_that_says_the_same(toy, tmp_path):
    r = run(toy, tmp_path, steps=4, every=3, collect=1)
    for _ in r.plan:
        r.step()
    said = logits(r.network)
    made = r.finish()
    assert made.base is None and {p.suffix for p in made.path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    again = AutoModelForCausalLM.from_pretrained(made.path)
    assert torch.allclose(logits(again), said, atol=1e-6)
    assert {n for n, _ in again.named_parameters()} == {
        n for n, _ in AutoModelForCausalLM.from_pretrained(toy.path).named_parameters()
    }
    base = dict(AutoModelForCausalLM.from_pretrained(toy.path).named_parameters())
    changed = sum(int((p != base[n]).sum()) for n, p in again.named_parameters())
    assert 0 < changed <= made.notes["parameters_trained"]


@pytest.mark.parametrize("grow, most", [("gradient", 3), ("never", 2)])
def test_the_optimizer_keeps_only_numbers_of_the_changes(toy, tmp_path, grow, most):
    sizes = []
    for density in (0.05, 0.1):
        r = run(toy, tmp_path / str(density), grow, density=density)
        r.step()
        numbers = sum(len(m.values) for m in matrices(r.network).values())
        state = sum(t.numel() for s in r.optimizer.state.values() for t in s.values() if t.dim())
        assert state == most * numbers
        held = sum(t.numel() for t in r.trainable.state().values()) - 3
        assert held <= 4 * numbers
        sizes.append(state)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)


@pytest.mark.parametrize("values, words", [
    ({"density": 1.0}, "at 'density' 1 no place is left to grow; give grow 'never'"),
    ({"density": 1e-3}, r"'density' 0.001 gives model.layers.0.self_attn.k_proj \[16, 32\] not one entry"),
    ({"every": 5, "collect": 5}, "'collect' must be less than 'every', 5, got 5"),
    ({"targets": ["w_proj"]}, "no matrix is called 'w_proj'; there are: down_proj"),
])  # fmt: skip
def test_bad_input(toy, values, words):
    with pytest.raises(MetierError, match=f"^train.parameters.spiel: {words}"):
        bound(**values)(Network(*load.network(toy), toy))


def test_only_named_matrices(toy):
    made = bound(targets=["q_proj"], grow="never")(Network(*load.network(toy), toy))
    assert {n.rpartition(".")[2] for n in matrices(made.network.module)} == {"q_proj"}


@pytest.mark.parametrize("values, words", [
    ("density: 0", "'density' must be greater than 0"), ("density: 1.5", "'density' must be at most 1"),
    ("density: 1", "no place is left to grow"), ("every: 4, collect: 4", "'collect' must be less than 'every'"),
])  # fmt: skip
def test_what_a_recipe_can_tell_is_refused_before_anything_runs(toy, values, words):
    from metier import recipe

    text = f"a: {{use: model, path: {toy.path}}}\nd: {{use: data.ingest.general_text}}\n" + (
        "b: {use: train.loop.pretrain, model: $a, data: $d, steps: 1, optimizer: {use: sparse_adamw},"
        f" parameters: {{use: spiel, {values}}}}}"
    )
    with pytest.raises(MetierError, match=words):
        recipe.check(recipe.parse(text))


@pytest.mark.parametrize("grow, wanted", [("gradient", "sparse_adamw"), ("momentum", "sm3")])
def test_another_optimizer_than_growing_needs_is_refused(toy, tmp_path, grow, wanted):
    with pytest.raises(MetierError, match=f"spiel: needs optimizer '{wanted}', got train.optimizer.adamw"):
        run(toy, tmp_path, grow, optimizer=method("train.optimizer", "optimizer", "adamw"))
    run(toy, tmp_path, "never").step()
