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

import hashlib
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from torch import nn

from metier.artefacts import Model
from metier.disk import json_text, text_digest, write_json
from metier.lm.loss import decoder
from metier.options import Count, MetierError, Positive
from metier.train.setup import Network, Trainable

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
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("lora_" in name)
        for layer in module.modules():  # the dropout an adapter was saved with is that of its last training
            for drop in getattr(layer, "lora_dropout", {}).values():
                if isinstance(drop, nn.Dropout):
                    drop.p = dropout
    else:
        _check_targets(module, targets)
        blocks = _last_blocks(module, last)
        if blocks is not None and targets == "all-linear":  # peft takes block numbers only beside a list of names
            inside = decoder(module).named_modules()
            targets = sorted({n.rpartition(".")[2] for n, m in inside if isinstance(m, nn.Linear)})
        config = LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets,  # type: ignore[arg-type]
            layers_to_transform=blocks,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            module = get_peft_model(module, config)
    groups = [{"params": [p for p in module.parameters() if p.requires_grad]}]
    return Trainable(
        network=Network(module, network.tokenizer, network.source),
        groups=groups,
        finish=lambda folder: _finish(module, network, folder),
    )


def _finish(module: PeftModel, network: Network, folder: Path) -> Model:
    """A plain peft folder with the tokenizer beside it."""
    base = network.source.base or network.source
    module.active_peft_config.base_model_name_or_path = str(base.path)
    # Left to itself peft asks the hub whether the embedding has grown.
    module.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order every time
    write_json(folder / "adapter_config.json", config)
    weights = folder / "adapter_model.safetensors"
    portable = {k: v for k, v in config.items() if k != "base_model_name_or_path"}
    digest = text_digest(base.digest, json_text(portable), hashlib.sha256(weights.read_bytes()).hexdigest())
    network.tokenizer.save_pretrained(str(folder))
    return Model(folder, digest, base, network.source.head, network.source.source)


def _same_shape(module: PeftModel, rank: int, alpha: float, targets: list[str] | str) -> None:
    config = module.active_peft_config
    if not isinstance(config, LoraConfig):
        kind = config.peft_type.value
        raise MetierError(f"train.parameters.lora: the model carries a {kind} adapter, which LoRA cannot go on with")
    if (config.r, float(config.lora_alpha)) != (rank, alpha):
        raise MetierError(
            f"train.parameters.lora: the model carries an adapter of rank {config.r} and alpha {config.lora_alpha:g}, "
            f"got rank {rank} and alpha {alpha:g}; give those, or merge it first"
        )
    if isinstance(targets, list) and set(targets) != set(config.target_modules or ()):
        held = ", ".join(sorted(config.target_modules or ()))
        raise MetierError(f"train.parameters.lora: the model carries an adapter on {held}, got {', '.join(targets)}")


def _check_targets(module: nn.Module, targets: list[str] | str) -> None:
    if isinstance(targets, str):
        return
    known = sorted({n.rpartition(".")[2] for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Embedding)})
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise MetierError(f"train.parameters.lora: no matrix is called '{target}'; there are: {', '.join(known)}")


def _last_blocks(module: Any, last: int | str | None) -> list[int] | None:
    if last is None:
        return None
    blocks = cast(int, module.config.get_text_config().num_hidden_layers)
    last = blocks // 2 if isinstance(last, str) else last
    if last > blocks:
        raise MetierError(f"train.parameters.lora: 'last' must be at most {blocks}, the number of blocks, got {last}")
    return list(range(blocks - last, blocks))
