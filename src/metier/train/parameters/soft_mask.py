"""In each epoch a random part of the weights moves, important ones more likely.

For classifiers and other specialists that must stay calibrated under noise and shift; made to go with the objective
`adversarial` (RoAST). Importance is the mean squared gradient, so what the task cares about trains and the rest drifts
little. It keeps two more numbers a weight. Not where weights must stay: between draws a masked weight still moves by
momentum and weight decay. With fewer than two epochs the mask is drawn once, from the first look.

    F = mean g²;   r = rank of F in [0, 1];   p = σ(2β(r − α));   M ~ Bernoulli(p);   g ← g · M / p

Embedding and head always train whole. Squares of the gradients are gathered while an epoch runs, for the next one's
draw; for the first epoch there is one look at the data beforehand.

Paper: 28
Options:
    alpha: rank at which a weight moves with probability one half; 1 − alpha is about the share that moves.
    beta: how sharply: 0 moves every weight with probability one half, a large one exactly the most important.
    unbiased: whether what moves is divided by its probability, so that the mean gradient stays.
    cap: that division at most.
    scope: patterns of names in the blocks that are masked; all of the blocks when not given.
    max_tokens: of the look before the first epoch, evenly spread over the data.
Raises: MetierError when a pattern fits no tensor of a block, or there is nothing to look at.
Differs: 1/p is capped, since at β = 10 the least important weight would jump by 10⁸; equal importances share their
    rank; above 10⁸ weights the rank is that of a histogram. The first look takes steps of 16 rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from metier.artefacts import Model, Part, Records
from metier.lm import blocks
from metier.lm import loss as lm_loss
from metier.options import Count, MetierError, NonNegative
from metier.train.batches import Batch
from metier.train.parameters import _masks, _rows, full
from metier.train.setup import Clock, Network, Trainable, derive

NAME = "train.parameters.soft_mask"
NEEDS = {"gradient": "whole", "update": "step"}
Rank = Annotated[float, Field(gt=0, lt=1)]
Cap = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Gradients = Iterator[dict[str, Tensor]]


def prepare(
    network: Network, data: Records, *, alpha: Rank = 0.9, beta: NonNegative = 10.0, unbiased: bool = True,
    cap: Cap = 1e3, scope: list[str] | None = None, max_tokens: Count = 200_000,
) -> Trainable:  # fmt: skip
    """Everything trains; an adapter the model carries is folded in first."""
    made = full.prepare(network)
    module = made.network.module
    weights = _within(dict(module.named_parameters()), scope)
    steps = _rows.steps(NAME, module, network.tokenizer, data, max_tokens)
    drawn = _Drawn(weights, alpha, beta, cap if unbiased else None, _looked_at(module, weights, steps))

    def finish(folder: Path) -> Model | Part:
        model = made.finish(folder)
        return dataclasses.replace(model, notes=model.notes | {"soft_mask": drawn.told()})

    return dataclasses.replace(made, finish=finish, before_batch=drawn.before_batch, edit=drawn.edit,
                               state=drawn.state, load=drawn.load)  # fmt: skip


def probabilities(ranks: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.sigmoid(2 * beta * (ranks - alpha))


def factors(p: Tensor, cap: float | None, draw: torch.Generator) -> Tensor:
    """M / p for M ~ Bernoulli(p), 1 / p at most ``cap``; M itself without a cap."""
    chosen = torch.rand(p.shape, generator=draw).to(p.device) < p
    return chosen.float() if cap is None else chosen / p.clamp(min=1 / cap)


class _Drawn:
    """The mask of the epoch that runs, and the squares that decide on the next."""

    def __init__(
        self, weights: dict[str, nn.Parameter], alpha: float, beta: float, cap: float | None, first: Gradients
    ) -> None:
        self.weights, self.alpha, self.beta, self.cap, self.first = weights, alpha, beta, cap, first
        self.seed = int(torch.randint(2**62, ()))
        self.factors: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.epoch = -1

    def before_batch(self, batch: Batch) -> Batch:
        if not self.factors:  # only now: a training that goes on has them from its checkpoint
            for gradients in self.first:
                self._gather(gradients)
            self._draw(batch.epoch)
        return batch

    def edit(self, clock: Clock) -> None:
        if clock.epoch != self.epoch:
            self._draw(clock.epoch)
        gradients = {name: p.grad for name, p in self.weights.items() if p.grad is not None}
        self._gather(gradients)
        for name, gradient in gradients.items():
            gradient.mul_(self.factors[name])

    def state(self) -> dict[str, Tensor]:
        if not self.factors:
            return {}
        kept = {"factor": self.factors, "squares": self.squares}
        named = {f"{kind}.{name}": t for kind, tensors in kept.items() for name, t in tensors.items()}
        return named | {"epoch": torch.tensor(self.epoch)}

    def load(self, state: dict[str, Tensor]) -> None:
        for kind, tensors in (("factor.", self.factors), ("squares.", self.squares)):
            tensors |= {name.removeprefix(kind): t for name, t in state.items() if name.startswith(kind)}
            tensors |= {name: t.to(self.weights[name].device) for name, t in tensors.items()}
        self.epoch = int(state.get("epoch", -1))

    def told(self) -> dict[str, float]:
        """Shares of the masked weights: which moved in the last epoch, and whose 1 / p was capped."""
        total = max(1, sum(f.numel() for f in self.factors.values()))
        moved = sum(int((f > 0).sum()) for f in self.factors.values())
        capped = 0 if self.cap is None else sum(int((f > 0.999 * self.cap).sum()) for f in self.factors.values())
        return {"moved": moved / total, "capped": capped / total}

    def _gather(self, gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            if name not in self.squares:
                self.squares[name] = torch.zeros_like(gradient)
            self.squares[name].addcmul_(gradient, gradient)

    def _draw(self, epoch: int) -> None:
        """A new mask from the squares so far, which begin anew."""
        draw = torch.Generator().manual_seed(derive(self.seed, epoch))  # one mask in all processes
        places, table = _masks.ranks([self.squares[name] for name in self.weights])
        p = probabilities(table, self.alpha, self.beta)
        for name, place in zip(self.weights, places, strict=True):
            self.factors[name] = factors(p[place], self.cap, draw)
            self.squares[name].zero_()
        self.epoch = epoch


def _within(named: dict[str, nn.Parameter], scope: list[str] | None) -> dict[str, nn.Parameter]:
    inside = {name: p for name, p in named.items() if blocks.placed(name).block is not None}
    for pattern in scope or ():
        if not any(fnmatchcase(name, pattern) for name in inside):
            some = ", ".join(list(inside)[:3])
            raise MetierError(f"{NAME}: no tensor of a block is called '{pattern}'; names look like {some}")
    chosen = {name: p for name, p in inside.items() if scope is None or any(fnmatchcase(name, s) for s in scope)}
    if not chosen:
        raise MetierError(f"{NAME}: there is no tensor of a block to mask")
    return chosen


def _looked_at(module: nn.Module, weights: dict[str, nn.Parameter], steps: Iterator[list[Batch]]) -> Gradients:
    """The gradient of the mean cross entropy of each step, without dropout; no hook of the weights hears of it."""
    for step in steps:
        was_training = module.training
        module.eval()
        gradients = {name: torch.zeros_like(p, requires_grad=False) for name, p in weights.items()}
        with torch.enable_grad():
            for batch in step:
                picked = lm_loss.supervised(module, batch.input_ids, batch.labels, batch.position_ids)
                loss = picked.loss(batch.weights(picked.rows)) / max(batch.weight_in_step, 1e-9)
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for name, gradient in zip(weights, found, strict=True):
                    if gradient is not None:
                        gradients[name] += gradient
        module.train(was_training)
        yield gradients
