"""What the bottlenecks of this room share: hanging them on, going on with those that are there, writing the folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from metier.artefacts import Model
from metier.disk import json_text, text_digest
from metier.lm import bottleneck, heads
from metier.lm.bottleneck import Act, Place, Shape
from metier.lm.loss import is_classifier
from metier.options import MetierError
from metier.train.parameters import _peft, freeze
from metier.train.setup import Network, Trainable

Dropout = Annotated[float, Field(ge=0, lt=1)]
Start = Literal["zero", "noise"]
NOISE = 0.02  # standard deviation of both matrices in BERT's adapters
# Names by architecture: Llama and its kin, Phi-3, BLOOM and Falcon, GPT-J, OPT.
INTO = (("gate_proj", "up_proj"), ("gate_up_proj",), ("dense_h_to_4h",), ("fc_in",), ("fc1",))
OUT_OF = (("down_proj",), ("dense_4h_to_h",), ("fc_out",), ("fc2",))
ATTENTION = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",))


def folded(network: Network) -> Network:
    """The network as it is when it has bottlenecks, else without adapters: what they add is folded into the weights."""
    return network if next(bottleneck.of(network.module), None) else freeze.dense(network)


def prepare(
    owner: str, network: Network, places: Mapping[str, Place], *, size: int, act: Act, dropout: float, start: Start,
    scale: float,
) -> Trainable:  # fmt: skip
    """New bottlenecks on the matrices named in ``places``, or those the model has, moving again.

    Raises MetierError when the model has others, or a matrix of that name is not there.
    """
    shape = Shape(dict(places), size, act, scale)
    held = next(bottleneck.of(network.module), None)
    if held is None:
        _peft.check_targets(owner, network.module, list(places), (nn.Linear,))
        bottleneck.attach(network.module, shape)
        if start == "noise":
            for one in bottleneck.of(network.module):
                nn.init.normal_(one.down, std=NOISE)
                nn.init.normal_(one.up, std=NOISE)
    elif held.shape != shape:
        raise MetierError(f"{owner}: the model has bottlenecks with {_told(held.shape)}, got {_told(shape)}")
    base = network.source if held is None else network.source.base or network.source
    module: Any = network.module
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".bottleneck." in name or (is_classifier(module) and heads.is_head(module, name)))
    for one in bottleneck.of(module):
        one.drop.p = dropout
    return Trainable(
        network=network,
        groups=[{"params": [p for p in module.parameters() if p.requires_grad]}],
        finish=lambda folder: _finish(module, network, base, shape, folder),
    )


def known(owner: str, module: nn.Module, *families: Sequence[Sequence[str]]) -> list[str]:
    """The matrices of each family that this architecture has. Raises MetierError, naming those there are, for none."""
    names = _peft.linear_names(module)
    found = [next((own for own in family if set(own) <= set(names)), None) for family in families]
    if None in found:
        raise MetierError(f"{owner}: does not know the matrices of this architecture; take train.parameters.bottleneck "
                          f"and name some as 'targets': {', '.join(names)}")  # fmt: skip
    return [name for own in found for name in own or ()]


def _finish(module: Any, network: Network, base: Model, shape: Shape, folder: Path) -> Model:
    tensors = {name: p for name, p in module.named_parameters() if p.requires_grad}
    bottleneck.save(tensors, shape, str(base.path), folder)
    weights = hashlib.sha256((folder / bottleneck.WEIGHTS).read_bytes()).hexdigest()
    digest = text_digest(base.digest, json_text(dataclasses.asdict(shape)), weights, _peft.label(module, folder))
    network.tokenizer.save_pretrained(str(folder))
    return Model(folder, digest, base, network.source.head, network.source.source)


def _told(shape: Shape) -> str:
    where = ", ".join(f"{name}: {place}" for name, place in sorted(shape.places.items()))
    return f"size {shape.size}, {shape.act}, scale {shape.scale:g} ({where})"
