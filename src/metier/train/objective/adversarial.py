"""Cross entropy of the text and of its worst neighbour, and agreement between the two.

For classifiers and answers that must hold under noise, typos and shift, and whose confidence is to be trusted (RoAST,
with the parameters `soft_mask`). A step takes three passes forward and two and a half back: three times the time. It
keeps tables of all words at the supervised positions, so it is made for short answers and for classes, not for
pre-training on long texts.

    x₀ = x + n;   G = ∂CE(x₀) / ∂n;   x' = x₀ + eps · rms(x) · Ĝ
    L = ½ CE(x) + ½ CE(x') + strength · ½ Σ (q − p)(log q − log p)

x are the input embeddings, rms(x) the root mean square of each token's, n uniform noise, p and q the probabilities for
x and x'. CE is a mean over the supervised tokens of the step. No gradient reaches the embedding through x'.

Paper: 28
Options:
    eps: length of the perturbation in the norm, as a part of the token's embedding.
    strength: weight λ of the agreement, summed over classes.
    noise: largest of the uniform noise under the perturbation.
    norm: a token's Ĝ is G over its largest entry (*linf*), over its length (*l2*), or its *sign*.
    reduction: agreement as a mean over supervised *tokens*, or as their *sum* in the step, as the paper's code has it.
Differs: the paper's eps is a length, for embeddings that a norm has brought to about 1; those of causal models are of
    any size, so here it is a part of them. G is that of the sum over the batch, so that no cut of a step changes it;
    where it is not finite, the plain cross entropy is left. The paper's classifiers have one supervised position.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metier.lm import loss as lm_loss
from metier.options import NonNegative
from metier.train import teacher
from metier.train.batches import Batch

Norm = Literal["linf", "l2", "sign"]


def loss(
    model: nn.Module, batch: Batch, *, eps: NonNegative = 0.1, strength: NonNegative = 0.01, noise: NonNegative = 1e-5,
    norm: Norm = "linf", reduction: Literal["tokens", "sum"] = "tokens",
) -> Tensor:  # fmt: skip
    """The batch's part of the step's loss: a scalar."""
    whole = max(batch.weight_in_step, 1e-9)
    with embedded(model, None) as seen:
        clean = _read(model, batch)
    weights = batch.weights(clean.rows)
    p = torch.log_softmax(teacher.logits(clean).float(), -1)  # [n, words]
    plain = _cross_entropy(p, clean.labels, weights) / whole
    at = seen[0].detach() + noise * _uniform(batch, seen[0])
    moved = at.clone().requires_grad_()
    with embedded(model, moved), torch.enable_grad():
        picked = _read(model, batch)
        if picked.head is not None:  # whose own gradient is not asked for
            picked = dataclasses.replace(picked, head=picked.head.detach())
        (gradient,) = torch.autograd.grad(picked.loss(weights), moved)
    if not bool(torch.isfinite(gradient).all()):
        return plain
    size = seen[0].detach().square().mean(-1, keepdim=True).sqrt()
    with embedded(model, at + eps * size * direction(gradient, norm)):
        q = torch.log_softmax(teacher.logits(_read(model, batch)).float(), -1)
    apart = divergence(p, q) if weights is None else divergence(p, q) * weights
    agreed = apart.sum() / (whole if reduction == "tokens" else 1.0)
    return (plain + _cross_entropy(q, clean.labels, weights) / whole) / 2 + strength * agreed


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Ĝ of each token: [rows, time, dim]."""
    if norm == "sign":
        return gradient.sign()
    length = gradient.norm(dim=-1, keepdim=True) if norm == "l2" else gradient.abs().amax(-1, keepdim=True)
    return gradient / (length + 1e-8)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Half of KL(q‖p) + KL(p‖q) of each row, from logarithms [n, words]: [n], in nats."""
    return ((q.exp() - p.exp()) * (q - p)).sum(-1) / 2


@contextlib.contextmanager
def embedded(model: Any, put: Tensor | None) -> Iterator[list[Tensor]]:
    """Notes what the embedding gives; ``put`` [rows, time, dim] takes its place."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, given: Any, made: Tensor) -> Tensor | None:
        seen.append(made)
        return put

    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def _read(model: nn.Module, batch: Batch) -> lm_loss.Supervised:
    return lm_loss.supervised(model, batch.input_ids, batch.labels, batch.position_ids)


def _cross_entropy(logs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    losses = -logs.gather(-1, labels[:, None])[:, 0]
    return losses.sum() if weights is None else (losses * weights.detach()).sum()


def _uniform(batch: Batch, like: Tensor) -> Tensor:
    """In [0, 1), of each record its own, whatever batch it lies in."""
    found = torch.zeros(like.shape)
    for row in range(len(batch.ids)):
        found[row] = torch.rand(like[row].numel(), generator=batch.generator(row)).view(like[row].shape)
    return found.to(like)
