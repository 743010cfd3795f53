"""A few changes in every matrix, whose places move to where they are needed.

For reaching further than a low rank does with as few numbers: a change may be anything, anywhere. What the optimizer
keeps grows with `density` alone, not with the model, and the result is a plain model of the same size. A step costs
about what one of full training does, since the gradient of each matrix is made before a few numbers of it are taken;
where that is too slow, or an adapter is wanted, take LoRA.

    y = x (W + Δ)ᵀ + b,  Δ zero but for k = ⌊density · |W|⌋ numbers δ, random places at first

    gradient   from a micro-batch the k places with the largest |∂L/∂W|, their gradients summed over `collect` steps;
               then p·k places with the smallest |δ| are given up for those with the largest sum
    momentum   every `every` steps; places by the largest row · column of sm3's accumulators
    p          `replace` · (1 − t/T), or `replace` · (1 + cos πt/T) / 2; 1 at the first exchange by gradient

Paper: 68
Options:
    density: share of a matrix that changes.
    grow: how new places are found: *gradient* (optimizer `sparse_adamw`), *momentum* (optimizer `sm3`, the least
        memory), or *never* (the first places stay; any optimizer).
    every: steps from one exchange to the next.
    collect: steps over which gradients are summed before an exchange; fewer than `every`.
    replace: share of the places that are given up at the start.
    decay: how that share falls to 0 at the end.
    targets: names of the matrices, or *all-linear*: every one but the output head.
    candidate_batches: micro-batches that may propose places; more than one where a micro-batch is a row or two.
Raises: MetierError when a matrix would get no number, everything changes and places should move, `collect` is not below
    `every`, no matrix has such a name, or the optimizer is another one than `grow` needs.
Differs: gradients are those of whole steps, before clipping, so a step cut otherwise differs only in the candidates,
    which its first micro-batch proposes. A new number's moments are as old as the steps summed. Weights are in float32
    or bfloat16, not quantised. Decay pulls δ to 0, which is the model: the paper's 10 to 30 at a rate of 1e-5 is
    `weight_decay` of the optimizer, 0 unless you set it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metier.artefacts import Model
from metier.lm import heads
from metier.lm.loss import is_classifier
from metier.options import Count, MetierError, Share
from metier.train.parameters import _peft, _sparse, freeze
from metier.train.setup import Clock, Network, Trainable

NAME = "train.parameters.spiel"
EXAMPLE = {"density": 0.05, "every": 2, "collect": 1}
Density = Annotated[float, Field(gt=0, le=1)]
Every = Annotated[int, Field(ge=2)]
Decay = Literal["linear", "cosine"]


def needs(options: dict[str, Any]) -> dict[str, Any]:
    """Candidates are those of one process; the accumulators of sm3 are the same in all."""
    found: dict[str, dict[str, Any]] = {
        "gradient": {"optimizer": "sparse_adamw", "processes": 1}, "momentum": {"optimizer": "sm3"}, "never": {}
    }  # fmt: skip
    return found[options.get("grow", "gradient")]


def refuse(density: float, grow: str, every: int, collect: int) -> None:
    if density == 1 and grow != "never":
        raise MetierError(f"{NAME}: at 'density' 1 no place is left to grow; give grow 'never'")
    if grow == "gradient" and collect >= every:
        raise MetierError(f"{NAME}: 'collect' must be less than 'every', {every}, got {collect}")


checks = {"prepare": refuse}


def prepare(
    network: Network, *, density: Density = 0.01, grow: Literal["gradient", "momentum", "never"] = "gradient",
    every: Every = 20, collect: Count = 5, replace: Share = 0.2, decay: Decay = "linear",
    targets: list[str] | Literal["all-linear"] = "all-linear", candidate_batches: Count = 1,
) -> Trainable:  # fmt: skip
    """A group for each matrix, which tells the optimizer ``indices`` and ``shape``. Adapters are folded in first."""
    refuse(density, grow, every, collect)
    network = freeze.dense(network)
    module: Any = network.module.requires_grad_(False)
    _peft.check_targets(NAME, module, targets, (nn.Linear,))
    matrices = _sparse.attach(NAME, module, density, None if targets == "all-linear" else targets)
    places = Places(matrices, grow, every, collect, replace, decay, candidate_batches)
    groups: list[dict[str, Any]] = [
        {"params": [m.values], "indices": m.indices, "shape": tuple(m.weight.shape)} for m in matrices.values()
    ]
    if is_classifier(module):
        head = [p.requires_grad_(True) for name, p in module.named_parameters() if heads.is_head(module, name)]
        groups.append({"params": head})

    def finish(folder: Path) -> Model:
        with _sparse.folded(module, matrices):
            return freeze.finish(module, network, folder)

    return Trainable(
        network=network, groups=groups, finish=finish, after_step=places.after_step, state=places.state,
        load=places.load,
    )  # fmt: skip


def given_up(done: float, replace: float, decay: Decay) -> float:
    """p, the share of the places that move when ``done`` of the training is over; 0 at its end."""
    return replace * (1 - done) if decay == "linear" else replace * (1 + math.cos(math.pi * done)) / 2


class Places:
    """Where the changes stand, and when they move."""

    def __init__(
        self, matrices: dict[str, _sparse.SparseLinear], grow: str, every: int, collect: int, replace: float,
        decay: Decay, batches: int,
    ) -> None:  # fmt: skip
        self.matrices, self.grow, self.every, self.collect = matrices, grow, every, collect
        self.replace, self.decay, self.batches = replace, decay, batches
        self.found: dict[str, _sparse.Candidates] = {}  # of every matrix, while gradients are summed
        self.steps = 0  # summed so far
        self._look(1)

    def after_step(self, clock: Clock) -> None:
        done = clock.step + 1
        p = given_up(done / clock.steps, self.replace, self.decay)
        if self.grow == "momentum" and done % self.every == 0:
            for matrix in self.matrices.values():
                by_momentum(matrix, clock.optimizer.state[matrix.values], p)
        if self.found:
            self.steps += 1
            for candidates in self.found.values():
                candidates.end_step()
            if done % self.every == self.collect:
                self._exchange(clock, 1.0 if done == self.collect else p)
        self._look(done + 1)

    def state(self) -> dict[str, Tensor]:
        kept = {f"{name}.indices": m.indices for name, m in self.matrices.items()}
        for name, candidates in self.found.items():
            kept |= {f"{name}.{part}": tensor for part, tensor in candidates.state().items()}
        left = next((c.batches for c in self.found.values()), 0)
        return kept | {"collecting": torch.tensor([int(bool(self.found)), self.steps, left])}

    def load(self, state: dict[str, Tensor]) -> None:
        collecting, steps, left = state["collecting"].tolist()
        self._stop()
        for name, matrix in self.matrices.items():
            matrix.indices.copy_(state[f"{name}.indices"])
        if collecting:
            self._begin(left)
            for name, candidates in self.found.items():
                candidates.load({part: state[f"{name}.{part}"] for part in candidates.state()})
        self.steps = steps

    def _look(self, step: int) -> None:
        """Whether gradients are summed in this step, counted from 1: from each multiple of `every` on, and at first."""
        if self.grow == "gradient" and step % self.every <= self.collect and not self.found:
            self._begin(self.batches)

    def _begin(self, batches: int) -> None:
        for name, matrix in self.matrices.items():
            self.found[name] = _sparse.Candidates(matrix, batches)
            matrix.watch = self.found[name].see

    def _stop(self) -> None:
        self.found, self.steps = {}, 0
        for matrix in self.matrices.values():
            matrix.watch = None

    def _exchange(self, clock: Clock, p: float) -> None:
        groups = {id(w): group for group in clock.optimizer.param_groups for w in group["params"]}
        for name, matrix in self.matrices.items():
            candidates, state, group = self.found[name], clock.optimizer.state[matrix.values], groups[id(matrix.values)]
            best = candidates.total.abs().argsort(descending=True, stable=True)
            at, coming = _sparse.exchange(matrix, p, candidates.places[best])
            sums = (("exp_avg", candidates.total, "beta1"), ("exp_avg_sq", candidates.squares, "beta2"))
            for moment, total, beta in sums:
                state[moment][at] = total[best[coming]] / self.steps * (1 - group[beta] ** self.steps)
            state["age"][at] = float(self.steps)
        self._stop()


@torch.no_grad()
def by_momentum(matrix: _sparse.SparseLinear, state: dict[str, Tensor], p: float) -> None:
    """Moves places to where sm3's sums of rows and columns are large; what is given up does not come back at once."""
    score = torch.outer(state["row"], state["column"]).view(-1)
    score[matrix.indices] = 0.0
    most = min(int(p * len(matrix.values)), int((score > 0).sum()))
    _sparse.exchange(matrix, p, score.topk(most).indices.int())
