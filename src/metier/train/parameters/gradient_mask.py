"""In each step only the weights with the largest gradients move.

Where all weights can be trained and the data are noisy or redundant: what a step says weakly is not learnt, and the
model drifts less. The choice costs a pass over the gradients. Not where a weight must surely stay (`half`, `freeze`,
or `strict` here): an optimizer with momentum goes on moving a weight that was chosen before.

    M = 1 for the k·n largest |Γ| of a tensor of n numbers, else 0;   θ ← θ − lr · optimizer(M · Γ)

Γ is the whole gradient of the step, over micro-batches and processes. Clipping comes after the mask.

Paper: 41
Options:
    keep: share k of the numbers that move, at least one of each tensor; 1 is full fine-tuning.
    by: the largest *gradient*, or at *random*, the control with the same share.
    within: each *tensor* by itself, or the share over all of the *model*.
    when: on the gradient of the *step*, or of each *microbatch* before they are added up, where the cut of the step
        counts.
    skip: patterns of names that are never masked; embedding and head when not given.
    strict: whether all others are put back after the step, so that no more than the share changes.
    decay: whether weight decay pulls also at the weights that are masked in the step.
Raises: MetierError when a pattern fits no tensor, or micro-batches are to be compared over the model.
Differs: the paper writes a plain gradient step, here any optimizer takes the masked gradient; of equal gradients the
    first are taken, where a threshold would keep all. `microbatch` is what a public reimplementation does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metier.artefacts import Model, Part
from metier.lm import blocks
from metier.options import MetierError
from metier.train.parameters import _masks, full
from metier.train.setup import Clock, Network, Trainable, derive

NAME = "train.parameters.gradient_mask"
NEEDS = {"gradient": "whole", "update": "step"}
Keep = Annotated[float, Field(gt=0, le=1)]
By = Literal["gradient", "random"]
SAMPLE = 4096  # numbers of a tensor, evenly spread, on which consecutive masks are compared
PARTS = 10  # of the training, for each of which their mean overlap is told


def prepare(
    network: Network, *, keep: Keep = 0.8, by: By = "gradient", within: Literal["tensor", "model"] = "tensor",
    when: Literal["step", "microbatch"] = "step", skip: list[str] | None = None, strict: bool = False,
    decay: bool = False,
) -> Trainable:  # fmt: skip
    """Everything trains; an adapter the model carries is folded in first."""
    if when == "microbatch" and within == "model":
        raise MetierError(f"{NAME}: a micro-batch is masked within each tensor, so 'within' must be 'tensor'")
    made = full.prepare(network)
    named = dict(made.network.module.named_parameters())
    masked = {name: weight for name, weight in named.items() if not _skipped(name, named, skip)}
    if keep == 1 or not masked:
        return made
    seed = int(torch.randint(2**62, ()))
    chosen = _Chosen(masked, keep, by, within == "model", when == "microbatch", strict, decay, seed)

    def finish(folder: Path) -> Model | Part:
        model = made.finish(folder)
        return dataclasses.replace(model, notes=model.notes | {"mask": chosen.told()})

    return dataclasses.replace(made, finish=finish, edit=chosen.edit, after_step=chosen.after_step,
                               state=chosen.state, load=chosen.load)  # fmt: skip


def mask(gradients: Sequence[Tensor], keep: float, by: By, over_all: bool, draw: torch.Generator | None = None) -> None:
    """Leaves max(1, ⌊keep · n⌋) numbers of each tensor, or ⌊keep · n⌋ of all, and sets the others to 0, in place."""
    scores = list(gradients)
    if by == "random":
        scores = [torch.rand(g.shape, generator=draw).to(g.device) for g in gradients]
    for together in [scores] if over_all else [[score] for score in scores]:
        share = keep * sum(score.numel() for score in together)
        _masks.keep_largest(together, max(1, int(share + 1e-6)))
    if by == "random":
        for gradient, score in zip(gradients, scores, strict=True):
            gradient.mul_(score != 0)


class _Chosen:
    """The choice of each step, and how much of it is that of the step before."""

    def __init__(
        self, weights: dict[str, nn.Parameter], keep: float, by: By, over_all: bool, micro: bool, strict: bool,
        decay: bool, seed: int,
    ) -> None:  # fmt: skip
        self.weights, self.keep, self.by, self.over_all, self.micro = weights, keep, by, over_all, micro
        self.strict, self.seed = strict, seed
        self.decay = None if decay else _masks.Decay()
        self.before: dict[str, tuple[Tensor, Tensor]] = {}  # mask, weight
        self.sample = torch.zeros(0, dtype=torch.bool)
        self.overlap, self.kept = torch.zeros(PARTS, 2), torch.zeros(2)  # sums and counts
        if micro:
            for weight in weights.values():
                weight.register_hook(self._micro)

    def edit(self, clock: Clock) -> None:
        gradients = {name: p.grad for name, p in self.weights.items() if p.grad is not None}
        if not self.micro:
            draw = torch.Generator().manual_seed(derive(self.seed, clock.step))  # one mask in all processes
            mask(list(gradients.values()), self.keep, self.by, self.over_all, draw)
        self._note(gradients, clock)
        decays = self.decay is not None and any(g.get("weight_decay") for g in clock.optimizer.param_groups)
        found = {name: g != 0 for name, g in gradients.items()} if self.strict or decays else {}
        if self.decay is not None:
            self.decay.take(clock.optimizer, {self.weights[name]: chosen for name, chosen in found.items()})
        if self.strict:
            self.before = {name: (chosen, self.weights[name].detach().clone()) for name, chosen in found.items()}

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        if self.decay is not None:
            self.decay.give_back()
        for name, (chosen, before) in self.before.items():
            torch.where(chosen, self.weights[name], before, out=self.weights[name])
        self.before = {}

    def state(self) -> dict[str, Tensor]:
        return {"sample": self.sample, "overlap": self.overlap, "kept": self.kept}

    def load(self, state: dict[str, Tensor]) -> None:
        self.sample, self.overlap, self.kept = state["sample"], state["overlap"], state["kept"]

    def told(self) -> dict[str, object]:
        """Share of the numbers that moved, and mean Jaccard overlap of consecutive masks by tenths of the training."""
        overlap = [round(float(total / count), 4) for total, count in self.overlap if count]
        return {"kept": float(self.kept[0] / self.kept[1].clamp(min=1)), "overlap": overlap}

    def _micro(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        mask([gradient], self.keep, self.by, False)
        return gradient

    def _note(self, gradients: Mapping[str, Tensor], clock: Clock) -> None:
        some = [g.flatten()[:: max(1, g.numel() // SAMPLE)] != 0 for g in gradients.values()]
        sample = torch.cat(some).cpu()
        self.kept += torch.tensor([float(sample.float().mean()), 1.0])
        if len(sample) == len(self.sample):
            common = float((sample & self.sample).sum()) / max(1.0, float((sample | self.sample).sum()))
            self.overlap[int(clock.done * PARTS)] += torch.tensor([common, 1.0])
        self.sample = sample


def _skipped(name: str, named: Mapping[str, nn.Parameter], skip: list[str] | None) -> bool:
    if skip is None:
        return blocks.placed(name).role in ("embedding", "head")
    for pattern in skip:
        if not any(fnmatchcase(known, pattern) for known in named):
            some = ", ".join(list(named)[:3])
            raise MetierError(f"{NAME}: no tensor is called '{pattern}'; names look like {some}")
    return any(fnmatchcase(name, pattern) for pattern in skip)
