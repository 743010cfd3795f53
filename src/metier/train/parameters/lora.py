"""Low-rank adaptation: a trainable product of two thin matrices beside each chosen one.

The default. The model's own weights stay as they are; a few per cent on top of them move. Memory and the result are
small, and without the adapter the base is back. Full training learns more from much data; a low rank forgets less.

    y = W x + (alpha / rank) · B A dropout(x),   A [rank, in] random, B [out, rank] zero at the start

Paper: 'LoRA: Low-Rank Adaptation of Large Language Models', Hu et al., 2022.
Options:
    rank: width of the product.
    alpha: strength; twice the rank when not given.
    dropout: share of the adapter's inputs dropped in training.
    targets: names of the matrices, or *all-linear*: every one but the output head.
    last: only in the last so many blocks, or the last *half*; backward ends below them, so fewer are
        faster, and less is forgotten.
Raises: MetierError when no matrix has such a name, or the model carries an adapter of another shape.
Differs: alpha follows the rank, so a larger rank needs no other learning rate.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from peft import LoraConfig, PeftModel
from pydantic import Field
from torch import nn

from metier.options import Count, MetierError, Positive
from metier.train.parameters import _peft
from metier.train.setup import Network, Trainable

NAME = "train.parameters.lora"
Dropout = Annotated[float, Field(ge=0, lt=1)]


def prepare(
    network: Network, *, rank: Count = 16, alpha: Positive | None = None, dropout: Dropout = 0.0,
    targets: list[str] | Literal["all-linear"] = "all-linear", last: Count | Literal["half"] | None = None,
) -> Trainable:  # fmt: skip
    """Attaches an adapter, or goes on with the one the model carries if it has the same shape."""
    alpha = 2.0 * rank if alpha is None else alpha
    module: Any = network.module
    if isinstance(module, PeftModel):
        _same_shape(module, rank, alpha, targets)
        return _peft.carry_on(network, dropout)
    _peft.check_targets(NAME, module, targets, (nn.Linear, nn.Embedding))
    blocks = _peft.last_blocks(NAME, module, last)
    if blocks is not None and targets == "all-linear":
        targets = _peft.linear_names(module)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, layers_to_transform=blocks,  # type: ignore[arg-type]
    )  # fmt: skip
    return _peft.attach(NAME, network, config)


def _same_shape(module: PeftModel, rank: int, alpha: float, targets: list[str] | str) -> None:
    config = module.active_peft_config
    if not isinstance(config, LoraConfig):
        kind = config.peft_type.value
        raise MetierError(f"{NAME}: the model carries a {kind} adapter, which LoRA cannot go on with")
    if (config.r, float(config.lora_alpha)) != (rank, alpha):
        raise MetierError(
            f"{NAME}: the model carries an adapter of rank {config.r} and alpha {config.lora_alpha:g}, "
            f"got rank {rank} and alpha {alpha:g}; give those, or merge it first"
        )
    if isinstance(targets, list) and set(targets) != set(config.target_modules or ()):
        held = ", ".join(sorted(config.target_modules or ()))
        raise MetierError(f"{NAME}: the model carries an adapter on {held}, got {', '.join(targets)}")
