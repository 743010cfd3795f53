"""Blocks that are computed again in backward: the same training, and less kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import architectures
from metier.artefacts import Model, Records
from metier.laws import given
from metier.laws import toy as maker
from metier.lm import load
from metier.lm.expand import blocks
from metier.lm.recompute import recompute
from metier.options import MetierError
from metier.store import Work
from metier.train import examples
from metier.train.loop import prefer, sft
from metier.train.run import Run
from metier.train.setup import Setup, method

IDS = torch.arange(3, 27).reshape(2, 12)


def kept(network: nn.Module) -> int:
    """Bytes that autograd keeps of a forward pass, weights and what enters recomputed blocks not counted."""
    own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(input_ids=IDS, use_cache=False)
    return sum(t.untyped_storage().nbytes() for t in found.values())


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    network.zero_grad(set_to_none=True)
    torch.manual_seed(0)  # some drop out
    network.train()(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", architectures.CONFIGS)
def test_gradients_are_those_of_what_is_kept_and_blocks_keep_nothing(kind: str) -> None:
    network = architectures.network(kind)
    network.config.use_cache = False
    wanted, before = gradients(network), kept(network)
    recompute(network, "test")
    found = gradients(network)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    inside = before - kept(network)
    assert inside > 0.5 * before, f"{inside} of {before} bytes were inside blocks"


def test_nothing_is_run_twice_without_gradients_or_outside_training() -> None:
    network = architectures.network("llama")
    recompute(network, "test")
    calls: Counter[str] = Counter()
    blocks(network, "test")[0].self_attn.register_forward_hook(lambda *_: calls.update(["attention"]))
    with torch.no_grad():
        network.train()(input_ids=IDS)
    with torch.no_grad():  # with a cache of keys and values, as a trainer that samples asks
        cached = network.train()(input_ids=IDS, use_cache=True).past_key_values
    assert cached.get_seq_length() == IDS.shape[1]
    network.eval()(input_ids=IDS, labels=IDS).loss.backward()
    assert calls["attention"] == 3
    gradients(network)
    assert calls["attention"] == 5


@pytest.mark.parametrize(("optimizer", "options"), [
    ("adamw", {"lr": 1e-2}), ("sgd", {"lr": 0.1}), ("lomo", {"lr": 0.1}), ("lomo", {"lr": 0.1, "clip": "two_pass"}),
    ("adalomo", {"lr": 1e-2}),
])  # fmt: skip
def test_every_optimizer_ends_where_it_would(toy: Model, tmp_path: Path, optimizer: str, options: Any) -> None:
    """Also those that move a weight in the middle of backward: no block is computed again after its own has moved."""
    ends = []
    for again in (False, True):
        setup = Setup(
            steps=4, batch=4, length=32, micro_tokens=4000, parameters="full", recompute=again, precision="fp32",
            max_grad_norm=0.0 if "lomo" in optimizer else 1.0, work=Work(tmp_path / str(again)),
            optimizer=method("train.optimizer", "optimizer", optimizer, **options),
        )  # fmt: skip
        run = Run(toy, maker.texts(40), setup, examples.packed, "test")
        calls: Counter[str] = Counter()
        blocks(run.network, "test")[0].self_attn.register_forward_hook(lambda *_, seen=calls: seen.update(["forward"]))
        start = {name: weight.detach().clone() for name, weight in run.weights.items()}
        for _ in run.plan:
            run.step()
        assert calls["forward"] == len(run.plan) * ((2 if again else 1) + (again and options.get("clip") == "two_pass"))
        ends.append({name: weight.detach() for name, weight in run.weights.items()})
        assert not all(torch.equal(start[name], ends[-1][name]) for name in start)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_dropout_falls_on_the_same_numbers(toy: Model, tmp_path: Path) -> None:
    losses = []
    for again in (False, True):
        setup = Setup(
            steps=3, batch=4, length=32, recompute=again, work=Work(tmp_path / str(again)),
            parameters=method("train.parameters", "prepare", "lora", dropout=0.5),
            optimizer=method("train.optimizer", "optimizer", "adamw", lr=0.1),
        )  # fmt: skip
        run = Run(toy, maker.texts(40), setup, examples.packed, "test")
        losses.append([run.step()["loss"] for _ in run.plan])
    assert losses[0] == losses[1]


def test_a_network_without_a_list_of_blocks_is_refused(toy: Model) -> None:
    network, _ = load.network(toy)
    network.config.num_hidden_layers += 1
    with pytest.raises(MetierError, match="test: cannot find the 3 blocks of a 'llama'"):
        recompute(network, "test")


@pytest.mark.parametrize("objective", ["logit_swap", "dpo"])
def test_a_teacher_copied_from_the_model_says_the_same(toy: Model, tmp_path: Path, objective: str) -> None:
    loop, data = (prefer, given.preferences()) if objective == "dpo" else (sft, given.rows())
    digests = set()
    for again in (False, True):
        setup = Setup(steps=4, batch=4, length=64, micro_tokens=300, parameters="full", objective=objective,
                      recompute=again, work=Work(tmp_path / str(again)))  # fmt: skip
        digests.add(loop.train(toy, Records.from_rows(data), setup).digest)
    assert len(digests) == 1 and toy.digest not in digests
