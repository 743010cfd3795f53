"""Some tensors move, chosen by name; the rest is frozen and stays bit for bit.

For "only the last blocks", "only the norms", "all but the embeddings". Backward ends below the lowest tensor that
moves, so training the upper half is faster and holds half the state. The head of a classifier moves unless `keep` names
it; with an empty `train` nothing else does.

Options:
    train: patterns of tensor names that move, with `*` for anything: `model.layers.29.*`, `*norm*`.
    keep: patterns of names that are frozen all the same.
Raises: MetierError when a pattern fits no tensor, or nothing is left to train.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from peft import PeftModel

from metier.artefacts import Model
from metier.disk import files_digest
from metier.lm import bottleneck, heads, load
from metier.lm.loss import is_classifier
from metier.options import MetierError
from metier.train.setup import Network, Trainable

EXAMPLE = {"train": ["model.layers.1.*"]}


def prepare(network: Network, *, train: list[str], keep: list[str] | None = None) -> Trainable:
    """Matrices and vectors (norms, biases) are separate groups; vectors know no decay. Adapters are folded in."""
    network = dense(network)
    module: Any = network.module
    named = dict(module.named_parameters())
    for pattern in [*train, *(keep or [])]:
        if not any(fnmatchcase(name, pattern) for name in named):
            some = ", ".join(list(named)[:3])
            raise MetierError(f"train.parameters.freeze: no tensor is called '{pattern}'; names look like {some}")
    train = [*train, *(name for name in named if is_classifier(module) and heads.is_head(module, name))]
    for name, parameter in named.items():
        moves = any(fnmatchcase(name, p) for p in train) and not any(fnmatchcase(name, p) for p in keep or [])
        parameter.requires_grad_(moves)
    moving = [p for p in named.values() if p.requires_grad]
    if not moving:
        raise MetierError("train.parameters.freeze: nothing is left to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in moving if p.dim() > 1]},
        {"params": [p for p in moving if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return Trainable(
        network=network,
        groups=[g for g in groups if g["params"]],
        finish=lambda folder: finish(module, network, folder),
    )


def dense(network: Network) -> Network:
    """The network without adapters: what they add is folded into the weights. Raises MetierError for bottlenecks."""
    bottleneck.refuse("train.parameters", network.source)
    module: Any = network.module
    if isinstance(module, PeftModel):
        module = module.merge_and_unload()
    return Network(module, network.tokenizer, network.source)


def finish(module: Any, network: Network, folder: Path) -> Model:
    """A plain transformers folder with the tokenizer in it."""
    with load.quiet():
        module.save_pretrained(str(folder), safe_serialization=True)
    network.tokenizer.save_pretrained(str(folder))
    return Model(folder, files_digest(folder), None, network.source.head, network.source.source)
