from __future__ import annotations

import pytest
import torch
from scipy.stats import rankdata

from metier import options
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import sft
from metier.train.optimizer import sgd
from metier.train.parameters import _masks, gradient_mask
from metier.train.run import Run
from metier.train.setup import Network, Setup, method
from stepping import step, weights

EMBEDDING = "model.embed_tokens.weight"


def bound(**values):
    return method("train.parameters", "prepare", "gradient_mask", **values)


def prepared(toy, **values):
    torch.manual_seed(0)
    return gradient_mask.prepare(Network(*load.network(toy), toy), **values)


def adamw(made, **values):
    return torch.optim.AdamW(made.groups, **{"lr": 0.01, "weight_decay": 0.1} | values)


def setup(folder, progress=silent, **changes):
    given = {"steps": 4, "batch": 8, "micro_tokens": 100, "checkpoint_every": 1e-6}
    return Setup(**(given | changes), work=Work(folder, progress))


@pytest.mark.parametrize("count", [1, 7, 300, 599, 600])
def test_the_largest_are_those_of_topk_also_over_several_tensors(count):
    draw = torch.Generator().manual_seed(0)
    scores = [torch.randn(20, 15, generator=draw), torch.randn(300, generator=draw).exp() * 1e-3]
    before = torch.cat([s.flatten() for s in scores])
    _masks.keep_largest(scores, count)
    wanted = torch.zeros(600)
    largest = before.abs().topk(count).indices
    wanted[largest] = before[largest]
    assert torch.equal(torch.cat([s.flatten() for s in scores]), wanted)


def test_a_sample_that_misleads_changes_nothing():
    """It meets every 25th number of this tensor, and these are none of the large ones."""
    tensor = torch.randn(102_400, generator=torch.Generator().manual_seed(0))
    tensor[::25] = 1e-9
    largest = tensor.abs().topk(50_000).indices
    wanted = torch.zeros_like(tensor)
    wanted[largest] = tensor[largest]
    _masks.keep_largest([tensor], 50_000)
    assert torch.equal(tensor, wanted)


def test_what_is_no_number_is_left_for_the_training_to_tell():
    tensor = torch.full((3,), float("nan"))
    _masks.keep_largest([tensor], 1)
    assert bool(tensor.isnan().all())


def test_of_equal_ones_the_first_are_taken():
    scores = [torch.tensor([1.0, -2.0, 0.0]), torch.tensor([[-1.0, 1.0], [0.0, 3.0]])]
    _masks.keep_largest(scores, 4)
    assert [s.tolist() for s in scores] == [[1, -2, 0], [[-1, 0], [0, 3]]]
    scores = [torch.tensor([0.0, -2.0, 0.0])]
    _masks.keep_largest(scores, 2)
    assert scores[0].tolist() == [0, -2, 0]


def test_ranks_share_the_middle_and_a_histogram_comes_close():
    draw = torch.Generator().manual_seed(1)
    values = [torch.rand(50, generator=draw).round(decimals=1), torch.rand(4000, generator=draw)]
    places, table = _masks.ranks(values)
    flat = torch.cat(values)
    exact = torch.from_numpy((rankdata(flat.numpy()) - 1) / (len(flat) - 1)).float()
    assert torch.allclose(torch.cat([table[p] for p in places]), exact, atol=1e-6)
    places, table = _masks.ranks(values, exact=100)
    assert float((torch.cat([table[p] for p in places]) - exact).abs().max()) < 0.01
    places, table = _masks.ranks([torch.zeros(3)])
    assert table[places[0]].tolist() == [0.5] * 3


def test_keeping_all_is_plain_training_bit_for_bit(toy, tmp_path):
    """Card 41 (a)."""
    plain = sft.train(toy, maker.questions(24), setup(tmp_path / "full", parameters="full"))
    assert sft.train(toy, maker.questions(24), setup(tmp_path / "all", parameters=bound(keep=1))).digest == plain.digest
    gradients = [torch.randn(6, 5), torch.zeros(3)]
    before = [g.clone() for g in gradients]
    gradient_mask.mask(gradients, 1.0, "gradient", True)
    assert all(torch.equal(g, b) for g, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("by", ["gradient", "random"])
@pytest.mark.parametrize("keep", [0.8, 0.2, 0.001])
def test_so_many_numbers_of_each_tensor_are_left(toy, keep, by):
    """Card 41 (b); norms keep at least one, the embedding is not masked."""
    made = prepared(toy, keep=keep, by=by)
    gradients = step(made, adamw(made), optimize=False)
    for name, gradient in gradients.items():
        wanted = gradient.numel() if name == EMBEDDING else max(1, int(keep * gradient.numel()))
        assert int((gradient != 0).sum()) == wanted or name == EMBEDDING, name
    assert float((gradients[EMBEDDING] != 0).float().mean()) > 0.9  # the head gives every word a gradient


def test_what_is_left_is_the_largest_and_as_it_was(toy):
    made, plain = prepared(toy, keep=0.3), prepared(toy, keep=1)
    gradients, whole = step(made, adamw(made), optimize=False), step(plain, adamw(plain), optimize=False)
    for name, gradient in gradients.items():
        kept = gradient != 0
        assert torch.equal(gradient[kept], whole[name][kept])
        if name != EMBEDDING:
            assert float(whole[name][kept].abs().min()) > float(whole[name][~kept].abs().max())


def test_over_the_model_one_threshold_holds(toy):
    made = prepared(toy, keep=0.25, within="model")
    gradients = step(made, adamw(made), optimize=False)
    masked = {n: g for n, g in gradients.items() if n != EMBEDDING}
    total = sum(g.numel() for g in masked.values())
    assert sum(int((g != 0).sum()) for g in masked.values()) == int(0.25 * total)
    shares = [float((g != 0).float().mean()) for g in masked.values()]
    assert max(shares) > 0.5 > 0.1 > min(shares)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_strictly_no_more_than_the_share_changes_in_a_step(toy, optimizer):
    """Card 41 (c), against momentum and weight decay; without it nearly all drift."""
    changed = {}
    for strict in (True, False):
        made = prepared(toy, keep=0.2, strict=strict)
        moves = adamw(made) if optimizer == "adamw" else sgd.optimizer(made.groups, lr=0.01, momentum=0.9)
        step(made, moves, 0)
        before = weights(made)
        step(made, moves, 1)
        changed[strict] = {n: int((w != before[n]).sum()) for n, w in weights(made).items()}
    for name, count in changed[True].items():
        size = weights(made)[name].numel()
        assert name == EMBEDDING or count <= max(1, int(0.2 * size)), name
    matrices = [n for n in changed[True] if "proj" in n]
    assert sum(changed[False][n] for n in matrices) > 1.5 * sum(changed[True][n] for n in matrices)


@pytest.mark.parametrize("scale", [0.1, 37.0])
def test_scaling_the_loss_leaves_the_mask(toy, scale):
    """Card 41 (d)."""
    one, other = prepared(toy, keep=0.2), prepared(toy, keep=0.2)
    plain, scaled = (step(m, adamw(m), scale=s, optimize=False) for m, s in ((one, 1.0), (other, scale)))
    differ = sum(int(((plain[n] != 0) != (scaled[n] != 0)).sum()) for n in plain if n != EMBEDDING)
    assert differ <= 4  # rounding may swap two at the border


def test_the_mask_is_that_of_the_whole_step(toy, tmp_path):
    """Card 41 (e): however a step is cut; masked by micro-batches it is another one."""

    def run(micro, **values):
        made = Run(toy, maker.questions(40), setup(
            tmp_path / f"{micro}{values}", micro_tokens=micro, batch=16, parameters=bound(keep=0.3, **values),
            optimizer=method("train.optimizer", "optimizer", "sgd", lr=0.1), schedule="constant", max_grad_norm=0,
        ), examples.conversations, "test")  # fmt: skip
        before = {n: w.detach().clone() for n, w in made.weights.items()}
        made.step()
        return {n: w.detach() - before[n] for n, w in made.weights.items()}

    whole, cut, micro = run(8000), run(60), run(60, when="microbatch")
    moved = [n for n in whole if n != EMBEDDING]
    assert all(torch.allclose(whole[n], cut[n], atol=1e-6) for n in whole)
    shares = [float((cut[n] != 0).float().mean()) for n in moved if "proj" in n]
    assert all(share < 0.31 for share in shares)
    assert all(float((micro[n] != 0).float().mean()) > 0.35 for n in moved if "proj" in n)


def test_what_is_masked_knows_no_decay_unless_told(toy):
    for decay in (False, True):
        made = prepared(toy, keep=0.2, decay=decay)
        moves = sgd.optimizer(made.groups, lr=0.5, weight_decay=0.1)
        before = weights(made)
        gradients = step(made, moves)
        name = "model.layers.0.mlp.up_proj.weight"
        masked = gradients[name] == 0
        after = weights(made)[name][masked]
        assert torch.equal(after, before[name][masked]) is not decay
        assert moves.param_groups[0]["weight_decay"] == 0.1
        chosen = before[name][~masked] * (1 - 0.5 * 0.1) - 0.5 * gradients[name][~masked]
        assert torch.allclose(weights(made)[name][~masked], chosen, atol=1e-6)


def test_a_random_mask_is_another_one_in_every_step_and_the_same_after_a_kill(toy, tmp_path):
    made = prepared(toy, keep=0.5, by="random")
    first, second = (step(made, adamw(made), n, optimize=False)["model.layers.0.mlp.up_proj.weight"] != 0
                     for n in (0, 1))  # fmt: skip
    assert 0.2 < float((first & second).sum() / (first | second).sum()) < 0.45  # a third, by chance

    def train(name, progress=silent):
        return sft.train(toy, maker.questions(24), setup(tmp_path / name, progress, parameters=bound(by="random")))

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(3))
    again = train("killed")
    assert again.digest == whole.digest and again.notes["mask"] == whole.notes["mask"]


def test_notes_tell_the_share_and_the_overlap_of_masks(toy, tmp_path):
    made = sft.train(toy, maker.questions(24), setup(tmp_path, parameters=bound(keep=0.3, within="model"), steps=20))
    told = made.notes["mask"]
    assert told["kept"] == pytest.approx(0.3, abs=0.02)
    assert len(told["overlap"]) == 10 and all(0.3 / 1.7 < o < 1 for o in told["overlap"])  # above that of chance


def test_patterns_are_skipped_and_unknown_ones_refused(toy):
    made = prepared(toy, keep=0.1, skip=["*norm*"])
    gradients = step(made, adamw(made), optimize=False)
    assert bool((gradients["model.norm.weight"] != 0).all())
    assert int((gradients[EMBEDDING] != 0).sum()) == int(0.1 * gradients[EMBEDDING].numel())
    with pytest.raises(MetierError, match=r"no tensor is called '\*head\*'; names look like model\.embed_tokens"):
        prepared(toy, skip=["*head*"])
    with pytest.raises(MetierError, match="'within' must be 'tensor'"):
        prepared(toy, when="microbatch", within="model")


@pytest.mark.parametrize("keep", [0, 1.5, -1])
def test_a_share_out_of_range_is_refused(keep):
    option = next(p for p in options.parameters(gradient_mask.prepare) if p.name == "keep")
    with pytest.raises(MetierError, match=r"gradient_mask: 'keep' must be (greater than 0|at most 1)"):
        options.checked(gradient_mask.NAME, option, keep)


def test_an_optimizer_that_moves_in_backward_is_refused(toy, tmp_path):
    import fused_optimizer

    with pytest.raises(MetierError, match=r"gradient_mask: needs whole gradients, which .* never holds"):
        Run(toy, maker.questions(8), setup(tmp_path, parameters=bound(), optimizer=fused_optimizer.optimizer,
            max_grad_norm=0), examples.conversations, "test")  # fmt: skip
