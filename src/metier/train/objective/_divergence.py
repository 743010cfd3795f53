"""Losses on whole distributions over the words, a few positions at a time.

Logits of 512 positions over 49,152 words take 100 MB; a divergence needs those of student and teacher and several
tables of the same size on the way. Here a chunk of positions has its logits, its loss and its gradient made while the
next one waits, as in `lm/loss.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import PreTrainedTokenizerBase

from metier.lm import loss as lm_loss
from metier.lm.loss import Supervised

Each = Callable[[Tensor, slice], Tensor]  # logits [chunk, vocab] of the positions in a slice of all n → losses [chunk]
NOTHING = -1e30  # a logit whose word cannot come, and whose gradient is a number
ROUNDING = 1e-6  # of a sum of probabilities in float32


def summed(picked: Supervised, each: Each, weights: Tensor | None = None) -> Tensor:
    """Σᵢ wᵢ · each(logitsᵢ), differentiable: a scalar in float32, 0 with a graph when n = 0.

    ``each`` gets float32 logits of the positions ``part`` and may use whatever else it knows of them; ``weights`` [n]
    are constants, or None for ones.
    """
    source, head = (picked.logits, None) if picked.logits is not None else (picked.hidden, picked.head)
    return cast(Tensor, _Summed.apply(source, head, each, None if weights is None else weights.detach().float()))


def kl(p: Tensor, logq: Tensor) -> Tensor:
    """KL(p ‖ q) of distributions p [n, words] and log q [n, words], in nats, with 0 · log 0 = 0: [n]."""
    return (torch.xlogy(p, p) - p * logq).sum(-1)


def likely(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the words ``ids`` [n, k] and, in the last place, of all others together: [n, k + 1]."""
    others = logits.scatter(-1, ids, NOTHING).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), others], -1) - logits.logsumexp(-1, keepdim=True)


def with_rest(p: Tensor) -> Tensor:
    """Probabilities [n, k] and, in the last place, what is left of 1: [n, k + 1]."""
    rest = 1 - p.sum(-1, keepdim=True)
    return torch.cat([p, rest.where(rest > ROUNDING, 0.0)], -1)


def words(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many logits stand for a word; those behind them only fill up a matrix, to another size in each model."""
    return max(tokenizer.get_vocab().values()) + 1


def chunks(picked: Supervised) -> list[slice]:
    """The positions in parts of as many as have their logits alive at once."""
    source, head = (picked.logits, None) if picked.logits is not None else (picked.hidden, picked.head)
    assert source is not None
    return _chunks(source, head)


def _chunks(source: Tensor, head: Tensor | None) -> list[slice]:
    size = lm_loss.BYTES_A_CHUNK if source.device.type == "cpu" else lm_loss.BYTES_ON_GPU
    rows = max(1, size // (4 * (len(head) if head is not None else source.shape[-1])))
    return [slice(start, min(start + rows, len(source))) for start in range(0, len(source), rows)]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, source: Tensor, head: Tensor | None, each: Each, weights: Tensor | None
    ) -> Tensor:  # fmt: skip
        source_moves, head_moves = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        d_source = torch.zeros_like(source) if source_moves else None
        d_head = torch.zeros_like(head) if head is not None and head_moves else None
        total = source.new_zeros((), dtype=torch.float32)
        for part in _chunks(source, head):
            logits = source[part] if head is None else source[part] @ head.to(source.dtype).t()
            with torch.enable_grad():
                logits = logits.detach().float().requires_grad_()
                losses = each(logits, part)
                value = losses.sum() if weights is None else (losses * weights[part]).sum()
            total += value.detach()
            if d_source is None and d_head is None:
                continue
            (slope,) = torch.autograd.grad(value, logits)
            slope = slope.to(source.dtype)
            if d_source is not None:
                d_source[part] = slope if head is None else slope @ head.to(slope.dtype)
            if d_head is not None:
                d_head += (slope.t() @ source[part]).to(d_head.dtype)
        ctx.save_for_backward(d_source, d_head)  # type: ignore[arg-type]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_source, d_head = (None if d is None else d * scale for d in ctx.saved_tensors)
        return d_source, d_head, None, None
