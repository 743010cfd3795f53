"""Copies of the blocks that matter least learn the field, each tensor at a rate of its own.

For continued pre-training on a real corpus of a field when general skills must not fall. The blocks without which a
model does best on general text are copied; only the silent copies move, and a tensor that general text has come to need
moves less. The model grows by the copies; about a tenth of the weights train. It costs a pass over the probe for each
block at the start and after every kill, and a backward pass over it at every refresh. For instructions of a few hundred
records take LoRA. Not for classifiers: the probe is text to be foreseen.

    I_l = L(probe, without block l) − L(probe)                        the k blocks with the least are copied
    I_U = mean over records of Σ_j |θ_j · ∂L_probe/∂θ_j| / |U|        U: a tensor of a copy
    rate of U = scale · (max I − I_U) / (max I − min I) · lr          1 · lr while all I are equal

Paper: 46
Options:
    probe: general texts or conversations, whose loss tells what must be kept; none of it may be trained on.
    blocks: copies.
    importance: of blocks, by *ablation* or by weight times gradient: *taylor_sum* adds the tensors of a block up,
        *taylor_rank* averages their ranks among the blocks.
    rates: *unit* gives each tensor its own rate, *same* all that of the optimizer (the paper's first stage alone).
    refresh: steps between looks at the probe.
    scale: the rate of the least important tensor, in units of the optimizer's.
    probe_tokens: tokens of the probe a look computes, about: rows evenly spread, the same in every look.
Raises: MetierError when the probe is empty or shares records with the training data, there are fewer blocks than
    copies, the model is a classifier, or its architecture is not known.
Differs: the paper's I_U is signed, so that terms cancel; like the released code this one takes absolute values. The
    refresh of step 0 needs no look: where a copy is silent every I_U is exactly 0, and all tensors have one rate. The
    rate is a factor on the schedule's, so a warm-up is not forgotten. Every record is one batch of the probe, so how a
    step is cut, and how many processes there are, changes nothing but the last bits.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metier import shapes
from metier.artefacts import Records
from metier.lm import expand
from metier.lm.loss import is_classifier
from metier.options import Count, MetierError, Positive
from metier.train.parameters import _importance, block_expansion, freeze
from metier.train.setup import Clock, Network, Trainable

NAME = "train.parameters.adept"
EXAMPLE = {"probe": "$told", "blocks": 1, "refresh": 2}
NEEDS = {"head": "text"}
Importance = Literal["ablation", "taylor_sum", "taylor_rank"]


def prepare(
    network: Network, data: Records, *, probe: Records, blocks: Count = 4, importance: Importance = "ablation",
    rates: Literal["unit", "same"] = "unit", refresh: Count = 500, scale: Positive = 2.0, probe_tokens: Count = 50_000,
) -> Trainable:  # fmt: skip
    """Adapters are folded in first. The copies and the importance of all blocks are noted in the result."""
    network = freeze.dense(network)
    if is_classifier(network.module):
        raise MetierError(f"{NAME}: needs a model that writes: a classifier foresees no text of the probe")
    _separate(probe, data)
    block_expansion.enough(network, blocks, NAME)
    probes = _importance.probes(NAME, network, probe, probe_tokens)
    scores = of_blocks(network.module, probes, importance)
    least = sorted(scores.argsort(stable=True)[:blocks].tolist())
    notes = {"copied": least, "importance": [round(s, 6) for s in scores.tolist()]}
    made = block_expansion.moving(network, expand.insert(network.module, least, NAME), notes, NAME)
    if rates == "same":
        return made
    units = Units(network.module, made.groups, probes, refresh, scale)
    return dataclasses.replace(
        made, groups=units.groups, after_step=units.after_step, state=units.state, load=units.load
    )


def of_blocks(network: nn.Module, probes: list[_importance.Probe], importance: Importance) -> Tensor:
    """The importance of each block: [blocks], float64."""
    if importance == "ablation":
        return _importance.ablation(network, probes, NAME)
    blocks = expand.blocks(network, NAME)
    network.requires_grad_(False)
    tensors = [p.requires_grad_(True) for block in blocks for p in block.parameters()]
    found = _importance.taylor(network, probes, tensors).reshape(len(blocks), -1)
    return _importance.summed(found) if importance == "taylor_sum" else _importance.ranked(found)


def factors(importance: Tensor, scale: float) -> Tensor:
    """From 0 for the most important tensor to ``scale`` for the least; 1 where all are equal: [tensors]."""
    low, high = importance.min(), importance.max()
    return torch.ones_like(importance) if low == high else scale * ((high - importance) / (high - low))


class Units:
    """A group for each tensor, whose rate follows its importance on the probe."""

    def __init__(
        self, network: nn.Module, groups: list[dict[str, Any]], probes: list[_importance.Probe], refresh: int,
        scale: float,
    ) -> None:  # fmt: skip
        self.network, self.probes, self.refresh, self.scale = network, probes, refresh, scale
        self.groups = [group | {"params": [p], "scale": 1.0} for group in groups for p in group["params"]]

    def after_step(self, clock: Clock) -> None:
        done = clock.step + 1
        if done % self.refresh == 0 and done < clock.steps:
            self._set(factors(self.importance(), self.scale), clock.optimizer.param_groups)

    def importance(self) -> Tensor:
        """Of each tensor, the mean over its numbers: [tensors], float64."""
        tensors = [group["params"][0] for group in self.groups]
        sizes = torch.tensor([t.numel() for t in tensors])
        return _importance.taylor(self.network, self.probes, tensors) / sizes

    def state(self) -> dict[str, Tensor]:
        return {"scales": torch.tensor([group["scale"] for group in self.groups], dtype=torch.float64)}

    def load(self, state: dict[str, Tensor]) -> None:
        self._set(state["scales"], self.groups)

    def _set(self, scales: Tensor, theirs: list[dict[str, Any]]) -> None:
        """In our groups, and in those that the optimizer may have made of them."""
        for own, group, scale in zip(self.groups, theirs, scales.tolist(), strict=True):
            own["scale"] = group["scale"] = scale


def _separate(probe: Records, data: Records) -> None:
    """A probe that is trained on would call important what the training is to change."""
    known = {shapes.words(row) for row in probe} - {""}
    shared = sum(shapes.words(row) in known for row in data)
    if shared:
        raise MetierError(f"{NAME}: {shared} of the training records are in 'probe' too; give other general records")
