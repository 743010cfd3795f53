"""What a text means to the whole model stays apart from what it means to old units.

The contrast of DAS, beside `train.parameters.das`: in pre-training on one field after another the whole model is to add
something to what its important units already say. It costs three more passes of every batch. Where micro-batches hold
a single row it only pushes the row from its own old part: short rows or a larger `micro_tokens` give it others. Not
for preferences.

    z₁, z₂ = mean of the last hidden states under two dropouts;   z₃ = the same with units multiplied by I
    L = strength · mean of −log softmaxᵢ [cos(z₁ᵢ, z₂ⱼ) / τ | cos(z₁ᵢ, z₃ⱼ) / τ]   at j = i of the first half

over the rows i of a step; j are the rows of its micro-batch.

Paper: 37
Options:
    importance: what `train.parameters.das.fit` made.
    strength: weight beside the loss.
    tau: temperature of the contrast.
    dropout: of the passes, behind embedding, attention and feed-forward part, beside the model's own.
Raises: MetierError when the importance is of another kind of model.
Differs: dropout is put into models that have none; z₁ and z₂ of a row are compared, where the code pairs neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, cast

import torch
from peft import PeftModel
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from metier.artefacts import Part
from metier.options import Positive
from metier.train import units
from metier.train.batches import Batch

NAME = "train.term.old_knowledge"
EXAMPLE = {"importance": "$train.parameters.das.fit"}
EXEMPT = {"cutting_a_step_changes_nothing": "a row is told from the other rows of its micro-batch"}
Dropout = Annotated[float, Field(gt=0, lt=1)]


def term(
    model: nn.Module, batch: Batch, memory: dict[str, Tensor], *, importance: Part, strength: Positive = 1.0,
    tau: Positive = 0.05, dropout: Dropout = 0.1,
) -> Tensor:  # fmt: skip
    """The batch's part of the step's mean over rows: a scalar."""
    with units.dropped(NAME, model, dropout):
        whole, again = _meaning(model, batch), _meaning(model, batch)
        with units.gated(NAME, model, memory):
            old = _meaning(model, batch)
    return strength * contrast(whole, again, old, tau) * len(batch.ids) / len(whole) / max(batch.rows_in_step, 1)


def start(model: nn.Module, data: Iterator[Batch], importance: Part) -> dict[str, Tensor]:
    """The importance of each unit: kind → [blocks, units]."""
    return units.read(NAME, importance, model)


def contrast(whole: Tensor, again: Tensor, old: Tensor, tau: float) -> Tensor:
    """Summed over the rows; each argument [rows, dim], of any length."""
    one, two, three = (normalize(z, dim=-1) for z in (whole, again, old))
    logits = torch.cat([one @ two.t(), one @ three.t()], 1) / tau  # [rows, 2 · rows]
    return cross_entropy(logits, torch.arange(len(one), device=one.device), reduction="sum")


def _meaning(model: Any, batch: Batch) -> Tensor:
    """Mean of the last hidden states over the tokens of each row: [rows, dim]."""
    body: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    given = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    hidden = body.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False,
                             **given).last_hidden_state  # fmt: skip
    mask = batch.attention_mask[..., None].to(hidden.dtype)
    return cast(Tensor, (hidden * mask).sum(1) / mask.sum(1))
