from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import expand, heads, load
from metier.options import MetierError
from metier.store import Work
from metier.train import examples
from metier.train.loop import pretrain
from metier.train.parameters import _importance, adept, block_expansion
from metier.train.run import Run
from metier.train.setup import Network, Setup, method

IDS = torch.arange(3, 23)[None]
PROBE = maker.texts(6, seed=9)
MIXED = Records.from_rows([*PROBE, *({**row, "text": None} for row in maker.questions(6, seed=9))])


@pytest.fixture
def network(toy):
    return Network(*load.network(toy), toy)


def prepared(network, **values):
    return adept.prepare(network, maker.texts(12), **({"probe": PROBE, "blocks": 1} | values))


def bound(**values):
    return method("train.parameters", "prepare", "adept", **({"probe": PROBE, "blocks": 1, "refresh": 2} | values))


def run(toy, folder, steps=6, **values):
    return Run(toy, maker.texts(40), Setup(
        steps=steps, batch=8, length=32, optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2),
        schedule="constant", parameters=bound(**values), work=Work(folder),
    ), examples.packed, "test")  # fmt: skip


@torch.no_grad()
def logits(module):
    return module.eval()(IDS).logits


def silence(block):
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()


@pytest.mark.parametrize("importance", ["ablation", "taylor_sum", "taylor_rank"])
def test_the_expanded_model_says_the_same(network, importance):
    before = logits(network.module)
    made = prepared(network, importance=importance)
    assert torch.equal(logits(made.network.module), before)
    assert len(expand.blocks(made.network.module, "x")) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_silent_block_matters_nothing_and_is_the_one_that_is_copied(network, number):
    silence(expand.blocks(network.module, "x")[number])
    probes = _importance.probes("x", network, MIXED, 10_000)
    found = _importance.ablation(network.module, probes, "x")
    assert float(found[number]) == 0 and float(found[1 - number]) != 0
    made = prepared(network, probe=MIXED, importance="taylor_sum")
    copies = {n.split(".")[2] for n, p in made.network.module.named_parameters() if p.requires_grad}
    assert copies == {str(number + 1)}


def test_ablation_is_the_loss_without_a_block_less_the_loss(network):
    probe = maker.texts(3, seed=4)
    probes = _importance.probes("x", network, probe, 10_000)
    found = _importance.ablation(network.module, probes, "x")

    def loss():
        total, count = 0.0, 0
        for row in probe:
            ids = torch.tensor(examples.conversations(network.tokenizer, Records.from_rows([row]), 512).tokens)[None]
            with torch.no_grad():
                total += float(network.module(ids, labels=ids.long()).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
        return total / count

    whole = loss()
    for number, block in enumerate(expand.blocks(network.module, "x")):
        with expand.bypassed(block):
            assert float(found[number]) == pytest.approx(loss() - whole, abs=1e-5)


def test_taylor_is_weight_times_gradient_over_records_and_kinds(network):
    """Texts and conversations count the same, however many there are of each; gradients that are held stay."""
    module = network.module.requires_grad_(False)
    tensor = expand.blocks(module, "x")[1].mlp.up_proj.weight.requires_grad_(True)
    tensor.grad = torch.ones_like(tensor)
    data = Records.from_rows([*list(MIXED)[:3], *list(MIXED)[6:8]])
    found = _importance.taylor(module, _importance.probes("x", network, data, 10_000), [tensor])
    assert torch.equal(tensor.grad, torch.ones_like(tensor))
    means = []
    for kind in (list(data)[:3], list(data)[3:]):
        values = []
        for row in kind:
            read = examples.conversations(network.tokenizer, Records.from_rows([row]), 512)
            ids, labels = (torch.tensor(t)[None].long() for t in (read.tokens, read.labels))
            gradient = torch.autograd.grad(module(ids, labels=labels).loss, tensor)[0]
            values.append(float((gradient * tensor.detach()).abs().sum()))
        means.append(sum(values) / len(values))
    assert float(found[0]) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_scores_of_blocks_from_their_tensors():
    found = torch.tensor([[4.0, 1.0], [1.0, 3.0], [2.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    assert _importance.summed(found).tolist() == [1, 0.8, 0.8, 0]
    assert _importance.ranked(found).tolist() == [1 - 2 / 4, 1 - 2 / 4, 1 - 2 / 4, 0]


def test_factors_reach_from_0_to_the_scale_and_are_1_where_all_are_equal():
    importance = torch.tensor([0.3, 0.1, 0.5, 0.2], dtype=torch.float64)
    found = adept.factors(importance, 2.0)
    assert (float(found.min()), float(found.max())) == (0, 2)
    assert int(found.argmin()) == int(importance.argmax()) and int(found.argmax()) == int(importance.argmin())
    assert adept.factors(torch.full((5,), 0.7), 2.0).tolist() == [1] * 5
    assert float(adept.factors(importance, 3.0).max()) == 3


def test_a_tensor_has_the_mean_of_its_numbers_and_in_a_silent_copy_0(network):
    made = prepared(network)
    units = made.after_step.__self__
    assert units.importance().tolist() == [0.0] * 9
    with torch.no_grad():
        for group in made.groups:
            group["params"][0].add_(0.01)
    tensors = [group["params"][0] for group in made.groups]
    sums = _importance.taylor(made.network.module, units.probes, tensors)
    assert units.importance().tolist() == [float(s) / t.numel() for s, t in zip(sums, tensors, strict=True)]
    assert [g["scale"] for g in made.groups] == [1.0] * 9 and all(len(g["params"]) == 1 for g in made.groups)


def test_originals_stay_bit_for_bit_and_the_copies_outputs_at_zero_give_the_base_back(toy, tmp_path):
    r = run(toy, tmp_path, steps=10)
    before = logits(AutoModelForCausalLM.from_pretrained(toy.path))
    held = {n: p.detach().clone() for n, p in r.network.named_parameters() if not p.requires_grad}
    for _ in r.plan:
        r.step()
    assert all(torch.equal(dict(r.network.named_parameters())[n], p) for n, p in held.items())
    assert not torch.allclose(logits(r.network), before, atol=1e-3)
    moved = {n.split(".")[2] for n in r.weights}
    silence(expand.blocks(r.network, "x")[int(moved.pop())])
    assert not moved and torch.equal(logits(r.network), before)


def test_rates_are_refreshed_when_they_are_due_and_a_tensor_at_0_rests(toy, tmp_path):
    r = run(toy, tmp_path)
    scales = []
    for _ in r.plan:
        before = {n: w.detach().clone() for n, w in r.weights.items()}
        now = [g["scale"] for g in r.optimizer.param_groups]
        r.step()
        scales.append([g["scale"] for g in r.optimizer.param_groups])
        still = {n for n, w in r.weights.items() if torch.equal(w, before[n])}
        names = {id(w): n for n, w in r.weights.items()}
        resting = {names[id(g["params"][0])] for g, s in zip(r.optimizer.param_groups, now, strict=True) if s == 0}
        assert resting <= still and (not resting or still == resting)
    assert scales[0] == [1.0] * 9 and scales[1] != scales[0]  # a look after steps 2 and 4, none after the last
    assert scales[1] == scales[2] and scales[3] == scales[4] == scales[5] and scales[2] != scales[3]
    assert (min(scales[1]), max(scales[1])) == (0, 2)
    assert [g["lr"] for g in r.optimizer.param_groups] == [1e-2 * s for s in scales[4]]


def test_it_goes_on_with_the_rates_it_had(toy, tmp_path):
    first = run(toy, tmp_path)
    for _ in range(3):
        first.step()
    first.save()
    again = run(toy, tmp_path)
    again.resume()
    assert [g["scale"] for g in again.optimizer.param_groups] == [g["scale"] for g in first.optimizer.param_groups]
    for _ in range(3):
        assert first.step()["loss"] == again.step()["loss"]
    assert all(torch.equal(w, again.weights[n]) for n, w in first.weights.items())


def test_all_at_one_rate_is_plain_expansion(network):
    made = prepared(network, rates="same")
    assert made.after_step is None and len(made.groups) == 2


def test_a_trained_model_is_plain_and_tells_what_was_copied(toy, tmp_path):
    made = pretrain.train(toy, maker.texts(24), Setup(steps=3, batch=4, parameters=bound(), work=Work(tmp_path)))
    assert len(made.notes["importance"]) == 2 and len(made.notes["copied"]) == 1 and made.base is None
    again = AutoModelForCausalLM.from_pretrained(made.path)
    assert again.config.num_hidden_layers == 3
    assert made.notes["parameters_trained"] < sum(p.numel() for p in again.parameters()) / 2


def test_bad_input(toy, network):
    with pytest.raises(MetierError, match=r"^train.parameters.adept: there is no record to measure importance on"):
        prepared(network, probe=Records.from_rows([]))
    with pytest.raises(MetierError, match="12 of the training records are in 'probe' too"):
        prepared(network, probe=maker.texts(12))
    with pytest.raises(MetierError, match="'blocks' must be at most 2, the number of blocks, got 3"):
        prepared(network, blocks=3)
    classifier = heads.attach(*load.network(toy), ["a", "b"])
    with pytest.raises(MetierError, match="a classifier foresees no text of the probe"):
        prepared(Network(*classifier, toy))


def test_a_classifier_s_loop_is_refused_before_anything_runs(toy):
    from metier import recipe

    text = f"a: {{use: model, path: {toy.path}}}\nd: {{use: data.ingest.general_text}}\n" + (
        "b: {use: train.loop.head, model: $a, data: $d, steps: 1, parameters: {use: adept, probe: $d}}"
    )
    with pytest.raises(MetierError, match="adept: needs a model that writes, and train"):
        recipe.check(recipe.parse(text))


def test_uniform_copies_stand_at_the_end_of_even_groups(toy):
    for count, expected in ((1, [1]), (2, [0, 1])):
        made = block_expansion.prepare(Network(*load.network(toy), toy), blocks=count)
        copies = {int(n.split(".")[2]) for n, p in made.network.module.named_parameters() if p.requires_grad}
        assert copies == {b + 1 + i for i, b in enumerate(expected)}
    with pytest.raises(MetierError, match="block_expansion: 'blocks' must be at most 2"):
        block_expansion.prepare(Network(*load.network(toy), toy))


def test_two_processes_find_the_same_and_what_one_finds(toy, tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import importance_processes

    toy.save(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, importance_processes.__file__, str(tmp_path)], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first.pop("world") == 2
    for name, values in importance_processes.found(toy).items():
        assert first[name] == pytest.approx(values, rel=1e-5, abs=1e-7)
