"""Cross entropy of a language model where it is supervised: one primitive, never a full table of logits.

A head of 49,152 words makes the logits of 2,048 tokens 400 MB, and their gradient as much again. Here the head is
applied to supervised positions only, a few rows at a time, and the gradient of those rows is computed while their
logits are at hand; backward has nothing left to do but scale it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from peft import PeftModel, PromptLearningConfig
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import cross_entropy
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from metier.options import MetierError

Weigh = Callable[[Tensor, slice], Tensor]  # losses [chunk] of the positions in a slice of all n → weights [chunk]
Weights = Tensor | Weigh | None
IGNORED = -100  # the label of a position that is not supervised, as everywhere in transformers
BYTES_A_CHUNK = 32 << 20  # of logits alive at once; more is no faster on a CPU, less starves the matrix product
BYTES_ON_GPU = 512 << 20  # a GPU waits for many small chunks
CLASSIFIERS = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())
EXOTIC = re.compile(r"logit\w*(scal|cap|mult|soft)|(lm_head|output)_mult")


def token_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, weights: Weights = None, over: float = 1.0
) -> Tensor:  # fmt: skip
    """Σᵢ wᵢ · −log softmax(hidden · weightᵀ)ᵢ at the labels / over: a scalar in float32, 0 with a graph when n = 0.

    ``hidden`` [n, dim], ``weight`` [vocab, dim] (the output head; no gradient, and no memory for one, when frozen),
    ``labels`` [n], ``weights`` [n] detached, None for ones, or a function of the losses that saves a second pass.
    A division by ``over`` costs nothing here; afterwards it would be another pass over the gradient of the head.
    """
    if not torch.is_grad_enabled():
        losses = per_token(hidden, weight, labels)
        losses = losses if weights is None else losses * constants(losses, weights, slice(0, len(labels)))
        return losses.sum() / over
    return cast(Tensor, _TokenLoss.apply(hidden, weight, labels, weights, over))


def constants(losses: Tensor, weights: Tensor | Weigh, part: slice) -> Tensor:
    """The weights of the positions in ``part`` of all, without gradient: [chunk]."""
    found = weights[part] if isinstance(weights, Tensor) else weights(losses, part)
    return found.detach().float()


@torch.no_grad()
def per_token(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(hidden · weightᵀ) at each label, in nats, float32, without gradient: [n]."""
    rows = _rows(weight)
    losses = hidden.new_empty(len(hidden), dtype=torch.float32)
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        losses[part] = _softmax(hidden[part], weight, labels[part])[0]
    return losses


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The supervised positions of a batch: what predicts them, and what they should be.

    ``hidden`` [n, dim] with ``head`` [vocab, dim]; or, where the head is more than one matrix, ``logits`` [n, vocab].
    ``labels`` [n]; ``rows`` [n] says which row of the batch a position belongs to.
    """

    labels: Tensor
    rows: Tensor
    hidden: Tensor | None = None
    head: Tensor | None = None
    logits: Tensor | None = None

    def loss(self, weights: Weights = None, over: float = 1.0) -> Tensor:
        """Sum of the (weighted) token losses / ``over``. ``weights`` [n] are constants, or told by the losses."""
        if self.hidden is not None and self.head is not None:
            return token_loss(self.hidden, self.head, self.labels, weights, over)
        assert self.logits is not None
        losses = cross_entropy(self.logits.float(), self.labels, reduction="none")  # [n]
        if weights is None:
            return losses.sum() / over
        return (losses * constants(losses.detach(), weights, slice(0, len(losses)))).sum() / over

    def per_token(self) -> Tensor:
        """Token losses without gradient: [n]."""
        if self.hidden is not None and self.head is not None:
            return per_token(self.hidden, self.head, self.labels)
        assert self.logits is not None
        return cross_entropy(self.logits.detach().float(), self.labels, reduction="none")


def supervised(
    model: nn.Module, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None
) -> Supervised:  # fmt: skip
    """Runs the decoder on ``input_ids`` [batch, time] (padded on the right) and picks what predicts ``labels``.

    ``labels`` [batch, time] stand under their own token, −100 where nothing is supervised; the shift happens here.
    Padding on the right needs no attention mask: a causal model never looks there, and a plain causal kernel is faster.
    A classifier is read the same way: the class stands under the place behind the text, where the next word would be.
    """
    if is_classifier(model):
        return _classes(model, input_ids, labels)
    given: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if position_ids is not None:
        given["position_ids"] = position_ids
    here = labels[:, 1:] != IGNORED  # [batch, time - 1]
    rows = here.nonzero()[:, 0]
    head = plain_head(model)
    if head is None:
        logits = own_logits(model(**given).logits, input_ids)[:, :-1][here]  # [n, vocab]
        return Supervised(labels[:, 1:][here], rows, logits=logits)
    hidden = decoder(model)(**given).last_hidden_state[:, :-1][here]  # [n, dim]
    return Supervised(labels[:, 1:][here], rows, hidden=hidden, head=head)


def plain_head(model: nn.Module) -> Tensor | None:
    """The output matrix [vocab, dim] if logits = hidden · matrixᵀ and nothing else; None for any other head.

    Other heads: an adapter on the head, a bias, scaled or capped logits, virtual tokens in front of the text.
    """
    if isinstance(model, PeftModel) and isinstance(model.active_peft_config, PromptLearningConfig):
        return None
    if is_classifier(model):
        return None
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head._forward_hooks or head._forward_pre_hooks:
        return None
    config = inner.config.get_text_config().to_dict()
    if any(EXOTIC.search(name) and value not in (None, 1, 1.0) for name, value in config.items()):
        return None
    return head.weight


def own_logits(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Those of the text's own tokens: some adapters put virtual ones in front and give logits for them too."""
    return logits[:, logits.shape[1] - input_ids.shape[1] :]


def is_classifier(model: nn.Module) -> bool:
    """Whether it gives one number a class for a whole text, instead of one a word for every place in it."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return type(inner).__name__ in CLASSIFIERS


def _classes(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Supervised:
    """The classes of a batch of texts, each row up to where its class stands; rows without one are left out."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    at = labels != IGNORED  # [batch, time], one in a row at most
    mask = (at.flip(1).cumsum(1).flip(1) > 0) & ~at
    mask[:, 0] = True
    padded = input_ids.masked_fill(~mask, inner.config.get_text_config().pad_token_id or 0)
    logits = model(input_ids=padded, attention_mask=mask.long()).logits  # [batch, classes]
    rows = at.nonzero()[:, 0]
    return Supervised(labels[at], rows, logits=logits[rows])


def decoder(model: nn.Module) -> nn.Module:
    """The part below the output head."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(nn.Module, inner.get_decoder())


@torch.no_grad()
def check_head(model: nn.Module, input_ids: Tensor) -> None:
    """Compares the short cut with the model's own logits on a few tokens [1, time].

    Raises MetierError naming the architecture when they differ: better no training than training on another loss.
    """
    if plain_head(model) is None:
        return
    was_training = model.training
    model.eval()
    picked = supervised(model, input_ids, input_ids)
    logits = model(input_ids=input_ids, use_cache=False).logits[0, :-1].float()
    model.train(was_training)
    difference = (picked.per_token() - cross_entropy(logits, input_ids[0, 1:], reduction="none")).abs()
    if difference.numel() and float(difference.max()) > 1e-2:
        inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        raise MetierError(f"{type(inner).__name__}: its logits are not its last hidden state times its output matrix")


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Weights, over: float
    ) -> Tensor:  # fmt: skip
        hidden_moves, weight_moves = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        d_hidden = torch.zeros_like(hidden) if hidden_moves else None
        d_weight = torch.zeros_like(weight) if weight_moves else None
        total = hidden.new_zeros((), dtype=torch.float32)
        rows = _rows(weight)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            losses, p = _softmax(hidden[part], weight, labels[part])  # [chunk], [chunk, vocab]
            p[torch.arange(len(p), device=p.device), labels[part]] -= 1  # now d loss / d logits
            if weights is not None:
                own = constants(losses, weights, part)
                losses = losses * own
                p.mul_(own[:, None])
            total += losses.sum()
            p = p.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[part] = p @ weight.to(p.dtype)
            if d_weight is not None:
                if p.dtype == d_weight.dtype:
                    d_weight.addmm_(p.t(), hidden[part], alpha=1 / over)
                else:  # in the dtype of the forward pass, as autocast does: a GPU is slow in float32
                    d_weight.add_(p.t() @ hidden[part], alpha=1 / over)
            del p  # else two chunks are alive while the next one is made
        if d_hidden is not None:
            d_hidden.div_(over)
        ctx.save_for_backward(d_hidden, d_weight)  # type: ignore[arg-type]
        return total / over

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        if scale.device.type != "cpu" or float(scale) != 1:  # a GPU would have to wait for the answer
            d_hidden, d_weight = (None if d is None else d * scale for d in (d_hidden, d_weight))
        return d_hidden, d_weight, None, None, None


def _softmax(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [n] and probabilities [n, vocab] in float32, in the logits' own memory."""
    logits = (hidden @ weight.to(hidden.dtype).t()).float()
    top = logits.amax(-1, keepdim=True)
    target = logits.gather(-1, labels[:, None])
    p = logits.sub_(top).exp_()
    total = p.sum(-1, keepdim=True)
    losses = (total.log() + top - target)[:, 0]
    return losses, p.div_(total)


def _rows(weight: Tensor) -> int:
    return max(1, (BYTES_A_CHUNK if weight.device.type == "cpu" else BYTES_ON_GPU) // (4 * len(weight)))
