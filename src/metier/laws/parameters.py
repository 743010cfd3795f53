"""Laws of parameters: nothing changes before the first step, frozen stays frozen, a kill changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier.artefacts import Model
from metier.laws._training import CPU, Interrupt, Stopping, logits
from metier.laws.case import TRAINING, Case
from metier.lm import load
from metier.options import Bound
from metier.store import Progress, Work, silent
from metier.train.loop import sft
from metier.train.setup import Network, Setup, Trainable
from metier.train.setup import method as bound_method
from metier.train.slots import needs_of


def the_model_is_the_same_before_the_first_step(case: Case) -> None:
    network, tokenizer = load.network(case.bench.model)
    before = logits(network.to(CPU))
    trainable = _prepared(case, Network(network, tokenizer, case.bench.model))
    worst = float((logits(trainable.network.module) - before).abs().max())
    assert worst < 1e-4, f"logits moved by {worst}"


def what_trains_is_in_a_group_and_nothing_else(case: Case) -> None:
    network, tokenizer = load.network(case.bench.model)
    trainable = _prepared(case, Network(network.to(CPU), tokenizer, case.bench.model))
    grouped = [id(p) for group in trainable.groups for p in group["params"]]
    moving = {id(p) for p in trainable.network.module.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped)), "a weight stands in two groups"
    assert set(grouped) == moving, f"{len(moving - set(grouped))} weights want a gradient and are in no group"
    assert grouped, "nothing trains"


def what_is_frozen_stays_bit_for_bit(case: Case, folder: Path) -> None:
    network, tokenizer = load.network(case.bench.model)
    trainable = _prepared(case, Network(network.to(CPU), tokenizer, case.bench.model))
    held: dict[str, tuple[Tensor, Tensor]] = {
        n: (p, p.detach().clone()) for n, p in trainable.network.module.named_parameters()
    }
    optimizer = _optimizer(case)(trainable.groups)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        trainable.network.module(input_ids=torch.arange(3, 23)[None], labels=torch.arange(3, 23)[None]).loss.backward()
        optimizer.step()
    frozen = [n for n, (p, before) in held.items() if not p.requires_grad and not torch.equal(p, before)]
    moved = [n for n, (p, before) in held.items() if p.requires_grad and not torch.equal(p, before)]
    assert not frozen, f"frozen and moved: {frozen[0]}"
    assert moved, "nothing moved"


def a_kill_changes_nothing(case: Case, folder: Path) -> None:
    whole = _trained(case, folder / "whole")
    try:
        _trained(case, folder / "killed", Stopping(3))
    except Interrupt:
        pass
    else:
        raise AssertionError("the training ended before it was killed")
    assert _trained(case, folder / "killed").digest == whole.digest, "other weights after a kill"


def computing_activations_again_changes_nothing(case: Case, folder: Path) -> None:
    kept = _trained(case, folder / "kept")
    assert _trained(case, folder / "again", recompute=True).digest == kept.digest, "other weights with 'recompute'"


def _prepared(case: Case, network: Network) -> Trainable:
    torch.manual_seed(0)
    method = case.bound()
    takes_data = "data" in {o.name for o in case.method.options}
    trainable: Trainable = method(network, case.bench.records) if takes_data else method(network)
    return trainable


def _optimizer(case: Case) -> Bound:
    """AdamW, or the one that the method needs."""
    name = needs_of(case.bound()).get("optimizer", "adamw")
    return bound_method("train.optimizer", "optimizer", name, lr=1e-2)


def _trained(case: Case, folder: Path, progress: Progress = silent, recompute: bool = False) -> Model:
    slots = {"parameters": case.bound(), "optimizer": _optimizer(case)}
    given: dict[str, Any] = TRAINING | slots | {"recompute": recompute}
    return sft.train(case.bench.model, case.bench.records, Setup(**given, work=Work(folder, progress)))
