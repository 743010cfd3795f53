from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.train import examples, fit, probe
from metier.train.loop import pretrain, sft
from metier.train.objective import cross_entropy
from metier.train.run import Run
from metier.train.setup import Setup, method


def sgd(groups, *, lr=0.1):
    return torch.optim.SGD(groups, lr=lr)


def lora(**values):
    return method("train.parameters", "prepare", "lora", **values)


def adamw(**values):
    return method("train.optimizer", "optimizer", "adamw", **values)


def setup(folder, **changes):
    given = {"steps": 3, "batch": 8, "length": 32, "work": Work(folder), "optimizer": sgd} | changes
    return Setup(**given)


def run(toy, folder, data=None, read=examples.packed, **changes):
    return Run(toy, data or maker.texts(40), setup(folder, **changes), read, "test")


def steps(run, n=None):
    return [run.step() for _ in range(n or len(run.plan))]


def close(a, b, tolerance=1e-6):
    return all(torch.allclose(a[k], b[k], rtol=0, atol=tolerance) for k in a) and a.keys() == b.keys()


def copy(weights):
    return {k: v.detach().clone() for k, v in weights.items()}


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read, data", [(examples.packed, maker.texts(40)), (examples.conversations, maker.questions(40))]
)
def test_a_step_is_the_same_however_it_is_cut(toy, tmp_path, read, data):
    whole, cut, single = (run(toy, tmp_path, data, read, micro_tokens=m, parameters="full") for m in (4000, 70, 1))
    rows = [steps(r) for r in (whole, cut, single)]
    assert len(whole.feed.cut(whole.plan[0])) == 1 and len(cut.feed.cut(cut.plan[0])) >= 3
    for a, b, c in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6) and a["loss"] == pytest.approx(c["loss"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    assert close(whole.weights, cut.weights) and close(whole.weights, single.weights)


def test_what_is_not_supervised_changes_nothing(toy, tmp_path):
    questions = maker.questions(20)
    longer = [
        row | {"messages": [*row["messages"], {"role": "user", "content": "and after the bridge"}]} for row in questions
    ]
    a = run(toy, tmp_path, questions, examples.conversations)
    b = run(toy, tmp_path, type(questions).from_rows(longer), examples.conversations)
    assert [r["loss"] for r in steps(a)] == [r["loss"] for r in steps(b)]


def test_an_all_masked_row_gives_zero_with_a_graph(toy, tmp_path):
    r = run(toy, tmp_path)
    batch = r.feed.batch(r.plan[0].rows[:1], r.plan[0])
    masked = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -100))
    loss = cross_entropy.loss(r.network, masked)
    loss.backward()
    assert float(loss) == 0 and all(p.grad is None or not p.grad.any() for p in r.weights.values())
    empty = r.feed.batch(r.plan[0].rows[:0], r.plan[0])
    assert float(cross_entropy.loss(r.network, empty)) == 0 and empty.share == 0


@pytest.mark.parametrize("parameters", [
    lora(dropout=0.1), method("train.parameters", "prepare", "freeze", train=["model.layers.1.*"], keep=["*norm*"])
])  # fmt: skip
def test_frozen_tensors_stay_and_chosen_ones_move(toy, tmp_path, parameters):
    r = run(toy, tmp_path, parameters=parameters)
    before = copy(dict(r.network.named_parameters()))
    steps(r, 3)
    moved = {n for n, p in r.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(r.weights) and len(moved) < len(before)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_the_forward_pass_is_unchanged_before_step_0_and_a_rate_of_0_moves_nothing(toy, tmp_path, parameters):
    r = run(toy, tmp_path, parameters=parameters, optimizer=adamw(lr=0.0, weight_decay=0.1))
    base = AutoModelForCausalLM.from_pretrained(toy.path)
    ids = torch.arange(20)[None]
    expected = base(ids).logits
    assert torch.equal(r.network.eval()(ids).logits, expected)
    before = copy(r.weights)
    steps(r, 2)
    assert all(torch.equal(before[n], r.weights[n]) for n in before)


def test_record_weights_weigh(toy, tmp_path):
    data = maker.questions(8)
    only = run(toy, tmp_path, data.take([0, 1]), examples.conversations)
    weights = [1.0, 1.0] + [0.0] * 6
    heavy = run(toy, tmp_path, data.with_column("weight", weights), examples.conversations)
    assert steps(only, 1)[0]["loss"] == pytest.approx(steps(heavy, 1)[0]["loss"], abs=1e-6)


def test_the_callers_randomness_is_left_alone(toy, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sft.train(toy, maker.questions(10), setup(tmp_path, parameters=lora(dropout=0.1)))
    assert torch.equal(torch.rand(3), expected)


def test_same_seed_same_weights_other_seed_other(toy, tmp_path):
    def made(name, seed):
        return pretrain.train(toy, maker.texts(20), setup(tmp_path / name, seed=seed, parameters=lora(dropout=0.2)))

    a, b, c = made("a", 1), made("b", 1), made("c", 2)
    assert a.digest == b.digest != c.digest


# -- slots -----------------------------------------------------------------------------------------


def test_hooks_run_in_their_order(toy, tmp_path):
    seen = []

    def prepare(network):
        made = lora()(network)
        weight = made.groups[0]["params"][1]  # a B, zero at the start

        def edit(clock):
            seen.append(("edit", clock.step, float(weight.grad.norm()), bool(weight.any())))
            for p in made.groups[0]["params"]:
                p.grad.mul_(1000)

        def after_step(clock):
            grads = torch.stack([p.grad.norm() for p in made.groups[0]["params"]])
            seen.append(("after", clock.step, float(grads.norm()), bool(weight.any())))

        return dataclasses.replace(
            made, edit=edit, after_step=after_step, penalty=lambda batch: 3.0 * batch.share + 0 * weight.sum(),
            before_batch=lambda batch: seen.append(("batch", len(batch.ids))) or batch,
        )  # fmt: skip

    r = run(toy, tmp_path, parameters=prepare, max_grad_norm=0.5, micro_tokens=70)
    plain = run(toy, tmp_path, max_grad_norm=0.5, micro_tokens=70)
    row, other = steps(r, 1)[0], steps(plain, 1)[0]
    names = [s[0] for s in seen]
    assert names == ["batch"] * names.count("batch") + ["edit", "after"] and names.count("batch") > 2
    assert row["loss"] == pytest.approx(other["loss"] + 3.0, abs=1e-5)  # a penalty counts once a step
    assert row["grad_norm"] > 500 * other["grad_norm"]  # edited before it was measured …
    assert seen[-1][2] == pytest.approx(0.5, rel=1e-3)  # … and clipped after
    assert seen[-2][3] is False and seen[-1][3] is True


def test_a_group_scales_the_rate_and_a_term_is_added(toy, tmp_path):
    def prepare(network):
        made = method("train.parameters", "prepare", "full")(network)
        return dataclasses.replace(made, groups=[made.groups[0] | {"scale": 0.0}, made.groups[1] | {"scale": 2.0}])

    def term(model, batch):
        return batch.share * sum((p**2).sum() for p in model.parameters())

    r = run(toy, tmp_path, parameters=prepare, max_grad_norm=0.0, schedule="constant", micro_tokens=70)
    p = run(toy, tmp_path, parameters="full", max_grad_norm=0.0, schedule="constant", micro_tokens=70)
    t = run(toy, tmp_path, parameters="full", max_grad_norm=0.0, terms=[term], micro_tokens=70)
    start = copy(r.weights)
    steps(r, 1), steps(p, 1)
    for name, weight in r.weights.items():
        expected = start[name] if weight.dim() > 1 else start[name] + 2 * (p.weights[name] - start[name])
        assert torch.allclose(weight, expected, atol=1e-6)
    norm = sum(float((w**2).sum()) for w in start.values())
    fresh = run(toy, tmp_path, parameters="full", micro_tokens=70)
    assert steps(t, 1)[0]["loss"] == pytest.approx(steps(fresh, 1)[0]["loss"] + norm, rel=1e-6)


def test_an_objective_with_a_memory_is_cut_free_and_resumes(toy, tmp_path):
    import objective_with_memory as objective

    def tau(run):
        return run.memory["objective"]["tau"]

    bound = functools.partial(objective.loss)
    whole = run(toy, tmp_path / "a", objective=bound, micro_tokens=4000, steps=4)
    cut = run(toy, tmp_path / "b", objective=bound, micro_tokens=70, steps=4)
    steps(whole, 2), steps(cut, 2)
    assert close(whole.weights, cut.weights) and torch.allclose(tau(whole), tau(cut), atol=1e-5)
    assert int(whole.memory["objective"]["steps"]) == 2
    cut.save()
    again = run(toy, tmp_path / "b", objective=bound, micro_tokens=70, steps=4)
    again.resume()
    assert torch.equal(tau(again), tau(cut))
    assert [r["loss"] for r in steps(again, 2)] == [r["loss"] for r in steps(cut, 2)]


def test_needs_are_checked_before_training(toy, tmp_path):
    import fused_optimizer as fused

    with pytest.raises(MetierError, match=r"fused_optimizer: needs max_grad_norm 0, got 1.0"):
        run(toy, tmp_path, optimizer=fused.optimizer)
    with pytest.raises(MetierError, match="takes a whole step in 1 micro-batch"):
        run(toy, tmp_path, optimizer=fused.optimizer, max_grad_norm=0.0, micro_tokens=40, parameters="full")
    r = run(toy, tmp_path, optimizer=fused.optimizer, max_grad_norm=0.0, micro_tokens=4000, parameters="full")
    p = run(toy, tmp_path, max_grad_norm=0.0, micro_tokens=4000, parameters="full")
    steps(r), steps(p)
    assert close(r.weights, p.weights)
    with pytest.raises(MetierError, match="has no use for 'objective'"):
        Run(toy, maker.texts(9), setup(tmp_path, objective=lambda m, b: 0), examples.packed, "x", ("parameters",))


@pytest.mark.parametrize("changes, words", [
    ({"epochs": 1.0}, "exactly one of 'epochs', 'steps', 'tokens', got epochs and steps"),
    ({"steps": None}, "exactly one of 'epochs', 'steps', 'tokens', got none"),
    ({"step_tokens": 100}, "'batch' or 'step_tokens', not both"),
    ({"patience": 2}, "'patience' needs 'dev'"),
    ({"seed": -1}, "'seed' must be at least 0, got -1"),
    ({"parameters": "lorra"}, "train.parameters: has no method 'lorra'"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_sentence(toy, tmp_path, changes, words):
    with pytest.raises(MetierError, match=words):
        run(toy, tmp_path, **changes)


def test_bfloat16_trains_too_and_weights_stay_float32(toy, tmp_path):
    r = run(toy, tmp_path, precision="bf16", steps=12, optimizer=adamw(lr=1e-2))
    plain = run(toy, tmp_path, precision="fp32", steps=12, optimizer=adamw(lr=1e-2))
    rows, others = steps(r), steps(plain)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[0]["loss"] == pytest.approx(others[0]["loss"], rel=1e-2)
    assert rows[0]["loss"] != others[0]["loss"] and {p.dtype for p in r.weights.values()} == {torch.float32}


# -- the whole way ---------------------------------------------------------------------------------


def test_a_lora_result_is_a_plain_peft_folder_with_its_history(toy, tmp_path):
    made = pretrain.train(toy, maker.texts(40), setup(tmp_path, steps=6, optimizer=adamw(lr=1e-2)))
    assert {p.name for p in made.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert made.base == toy and made.notes["steps"] == 6
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy.path), made.path)
    opened, _ = load.network(made)
    ids = torch.arange(20)[None]
    assert torch.equal(plain(ids).logits, opened(ids).logits)
    assert made.notes["parameters_trained"] == sum(
        t.numel() for t in load_file(made.path / "adapter_model.safetensors").values()
    )
    rows = [row for row in Work(tmp_path).rows() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 7)) and sum(r["tokens"] for r in rows) == made.notes[
        "tokens_trained"
    ]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["lr"] < rows[1]["lr"]
    json.loads((made.path / "adapter_config.json").read_text())


def test_the_best_weights_on_dev_are_returned_and_patience_ends_it(toy, tmp_path):
    given = {
        "dev": maker.texts(5, seed=9),
        "optimizer": adamw(lr=0.05),
        "steps": 60,
        "evaluate_every": 4,
        "patience": 2,
    }
    made = pretrain.train(toy, maker.texts(4), setup(tmp_path, **given))
    looks = {row["step"]: row["dev_loss"] for row in Work(tmp_path).rows() if "dev_loss" in row}
    best = min(looks, key=lambda s: looks[s])
    assert 0 in looks and made.notes["dev"]["best_step"] == best and made.notes["steps"] < 60
    assert best < max(looks) == made.notes["steps"]
    again = Run(made, maker.texts(4), setup(tmp_path / "x", dev=given["dev"]), examples.packed, "test")
    assert again.dev_loss() == pytest.approx(looks[best], abs=1e-6)


def test_training_that_never_helps_returns_the_start(toy, tmp_path):
    made = pretrain.train(toy, maker.texts(8), setup(tmp_path, dev=maker.texts(4, 7), optimizer=adamw(lr=0.0)))
    assert made.notes["dev"]["best_step"] == 0


def test_divergence_stops_in_one_sentence_and_keeps_the_good_weights(toy, tmp_path):
    wild = setup(tmp_path, steps=60, optimizer=adamw(lr=30.0), parameters="full", checkpoint_every=1e-6)
    with pytest.raises(
        MetierError, match=r"diverged at step \d+: .* learning rate of 30; take a smaller one \(the last good"
    ):
        pretrain.train(toy, maker.texts(40), wild)
    assert list((tmp_path / "checkpoints").glob("step-*"))


def test_training_goes_on_with_an_adapter_of_the_same_shape_only(toy, tmp_path):
    first = pretrain.train(toy, maker.texts(20), setup(tmp_path / "a"))
    second = pretrain.train(first, maker.texts(20), setup(tmp_path / "b"))
    assert second.base == toy and second.digest != first.digest
    with pytest.raises(MetierError, match="carries an adapter of rank 16 and alpha 32, got rank 8"):
        pretrain.train(first, maker.texts(20), setup(tmp_path / "c", parameters=lora(rank=8)))


def test_a_probe_leaves_nothing_behind_and_starts_each_rate_alike(toy, tmp_path):
    given = setup(tmp_path, steps=None, dev=maker.texts(4, 7), optimizer=adamw())
    rows = probe.rates(toy, maker.texts(40), given, rates=[1e-2, 1e-3, 1e-2], steps=3, work=given.work)
    assert (
        rows[0]["dev_loss_after"] == rows[2]["dev_loss_after"] < rows[1]["dev_loss_after"] < rows[1]["dev_loss_before"]
    )
    assert [p.name for p in tmp_path.iterdir()] == [] and rows[0]["tokens"] > 0
    assert (
        probe.tokens(toy, maker.texts(40), given)
        == fit.Run(toy, maker.texts(40), setup(tmp_path), examples.packed, "x").examples.lengths.sum()
    )
