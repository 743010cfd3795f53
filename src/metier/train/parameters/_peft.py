"""What every adapter of peft shares: attach it or go on with the one that is there, and write it as a peft folder."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn

from metier.artefacts import Model
from metier.disk import json_text, text_digest, write_json
from metier.lm import heads
from metier.lm.loss import decoder, is_classifier
from metier.options import MetierError
from metier.train.setup import Network, Trainable

SETS = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules")


def attach(owner: str, network: Network, config: PeftConfig) -> Trainable:
    """A new adapter beside the weights. Raises MetierError with peft's reason when it does not fit this network."""
    config.task_type = "SEQ_CLS" if is_classifier(network.module) else "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by an old name, and tells of sizes that it rounds
        try:
            module = get_peft_model(cast(Any, network.module), config)
        except (ValueError, RuntimeError, TypeError) as error:
            raise MetierError(f"{owner}: does not fit this model: {str(error).splitlines()[0]}") from None
    # A head that was put on a folded adapter sits on that adapter's model, not on the one below it.
    return _trainable(cast(PeftModel, module), network, network.source)


def carry_on(network: Network, dropout: float | None = None) -> Trainable:
    """The adapter the model carries, moving again. The dropout it was saved with is that of its last training."""
    module = cast(PeftModel, network.module)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(module.active_peft_config.peft_type, "prompt_encoder")
    for name, parameter in module.named_parameters():
        moves = prefix in name or "prompt_encoder" in name or "modules_to_save" in name
        parameter.requires_grad_(moves and parameter.is_floating_point())
    for layer in module.modules():
        drops: Any = getattr(layer, "lora_dropout", None) if dropout is not None else None
        for name in drops or ():  # one saved without dropout has nothing in its place
            drops[name] = nn.Dropout(dropout) if dropout else nn.Identity()
    return _trainable(module, network, network.source.base or network.source)


def differences(carried: PeftConfig, wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, held, wanted) for each field that a carried adapter has otherwise; lists compare as sets."""

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, list | set | tuple) else value

    return [(f, getattr(carried, f), v) for f, v in wanted.items() if plain(getattr(carried, f)) != plain(v)]


def check_targets(owner: str, module: nn.Module, targets: list[str] | str | None, kinds: tuple[type, ...]) -> None:
    if not isinstance(targets, list):
        return
    known = sorted({n.rpartition(".")[2] for n, m in module.named_modules() if isinstance(m, kinds)})
    for target in targets:
        if target.rpartition(".")[2] not in known:
            raise MetierError(f"{owner}: no matrix is called '{target}'; there are: {', '.join(known)}")


def last_blocks(owner: str, module: Any, last: int | str | None) -> list[int] | None:
    if last is None:
        return None
    blocks = cast(int, module.config.get_text_config().num_hidden_layers)
    last = blocks // 2 if isinstance(last, str) else last
    if last > blocks:
        raise MetierError(f"{owner}: 'last' must be at most {blocks}, the number of blocks, got {last}")
    return list(range(blocks - last, blocks))


def linear_names(module: nn.Module) -> list[str]:
    """Names of the matrices inside the blocks: peft takes block numbers only beside a list of names."""
    return sorted({n.rpartition(".")[2] for n, m in decoder(module).named_modules() if isinstance(m, nn.Linear)})


def _trainable(module: PeftModel, network: Network, base: Model) -> Trainable:
    return Trainable(
        network=Network(module, network.tokenizer, network.source),
        groups=[{"params": [p for p in module.parameters() if p.requires_grad]}],
        finish=lambda folder: _finish(module, network, base, folder),
    )


def _finish(module: PeftModel, network: Network, base: Model, folder: Path) -> Model:
    """A plain peft folder with the tokenizer beside it, and the labels of a classifier."""
    module.active_peft_config.base_model_name_or_path = str(base.path)
    # Left to itself peft asks the hub whether the embedding has grown.
    module.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for name in SETS:
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])  # peft writes a set, in another order every time
    write_json(folder / "adapter_config.json", config)
    portable = {k: v for k, v in config.items() if k != "base_model_name_or_path"}
    weights = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    digest = text_digest(base.digest, json_text(portable), weights)
    if labels := label(module, folder):
        digest = text_digest(digest, labels)
    network.tokenizer.save_pretrained(str(folder))
    return Model(folder, digest, base, network.source.head, network.source.source)


def label(module: nn.Module, folder: Path) -> str:
    """Writes the labels of a classifier beside its adapter, and returns them; nothing for a model with words."""
    if not is_classifier(module):
        return ""
    names: dict[int, str] = cast(Any, module).config.id2label
    write_json(folder / heads.LABELS, [names[i] for i in sorted(names)])
    return json_text(names)
