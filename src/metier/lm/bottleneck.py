"""Bottlenecks: small networks beside the matrices of a model, which no matrix could stand for.

A matrix W gets f(u) = scale · up(act(down(u))) without biases, in one of three places:

    input      y = W(x + f(x))
    output     h = Wx;  y = h + f(h)
    parallel   y = Wx + f(x)

They hang on the matrix as ``W.bottleneck`` with a hook, so that its own weights keep their names. On disk they are a
folder: ``bottleneck.json`` (the model below, and what hangs where), ``bottleneck.safetensors``, a tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import pydantic
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from metier.artefacts import Model
from metier.disk import write_json
from metier.lm.loss import decoder
from metier.options import Count, MetierError, Positive

FILE, WEIGHTS = "bottleneck.json", "bottleneck.safetensors"
Place = Literal["input", "output", "parallel"]
Act = Literal["tanh", "relu", "identity"]
ACTS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda x: x}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Which matrices (by their last name) have a bottleneck where, and what it is like."""

    places: Mapping[str, Place]
    size: Count
    act: Act
    scale: Positive


class Bottleneck(nn.Module):
    """f(u): [..., inside] → [..., outside], in the dtype of its own weights. Zero as long as ``up`` is."""

    def __init__(self, shape: Shape, inside: int, outside: int, device: torch.device) -> None:
        super().__init__()
        self.shape = shape
        self.down = nn.Parameter(torch.empty(shape.size, inside, device=device))
        self.up = nn.Parameter(torch.zeros(outside, shape.size, device=device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.drop = nn.Dropout(0.0)

    def forward(self, given: Tensor) -> Tensor:
        inner = ACTS[self.shape.act](linear(self.drop(given.to(self.down.dtype)), self.down))
        return (self.shape.scale * linear(inner, self.up)).to(given.dtype)


def attach(network: nn.Module, shape: Shape) -> None:
    """Hangs new bottlenecks, at zero, on the matrices that ``shape`` names below the output head."""
    for name, matrix in list(decoder(network).named_modules()):
        place = shape.places.get(name.rpartition(".")[2])
        if place is None or not isinstance(matrix, nn.Linear):
            continue
        inside = matrix.out_features if place == "output" else matrix.in_features
        outside = matrix.in_features if place == "input" else matrix.out_features
        matrix.bottleneck = Bottleneck(shape, inside, outside, matrix.weight.device)
        if place == "input":
            matrix.register_forward_pre_hook(_before)
        else:
            matrix.register_forward_hook(_behind if place == "output" else _beside)


def of(network: nn.Module) -> Iterator[Bottleneck]:
    """The bottlenecks a network has."""
    return (m for m in network.modules() if isinstance(m, Bottleneck))


def lies_in(folder: Path) -> bool:
    return (folder / FILE).exists()


def refuse(owner: str, model: Model) -> None:
    """Raises MetierError when bottlenecks hang on the model's matrices, so that no plain folder can hold it."""
    if lies_in(model.path):
        name = model.source or model.path
        raise MetierError(f"{owner}: '{name}' has bottlenecks beside its matrices, which cannot be folded into them; "
                          "metier opens it as it is")  # fmt: skip
    if model.base is not None:
        refuse(owner, model.base)


def save(tensors: Mapping[str, Tensor], shape: Shape, base: str, folder: Path) -> None:
    """``tensors`` by their names in the network; ``base`` is the folder or name of the model below."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / WEIGHTS)
    write_json(folder / FILE, {"base_model_name_or_path": base, **dataclasses.asdict(shape)})


def load(network: nn.Module, folder: Path) -> None:
    """Hangs the bottlenecks of a folder on the network below it.

    Raises MetierError when the folder does not say what they are like, or does not fit the network.
    """
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        shape = pydantic.TypeAdapter(Shape).validate_python({f.name: facts[f.name] for f in dataclasses.fields(Shape)})
    except (ValueError, KeyError, TypeError):
        raise MetierError(f"model: '{folder}': {FILE} does not say what its bottlenecks are like") from None
    attach(network, shape)
    own = dict(network.named_parameters())
    held = load_file(folder / WEIGHTS)
    wanted = {name for name in own if ".bottleneck." in name}
    wrong = sorted(wanted - set(held)) or [n for n, t in held.items() if n not in own or own[n].shape != t.shape]
    if wrong:
        raise MetierError(f"model: '{folder}': its bottlenecks do not fit the model below: '{wrong[0]}'")
    with torch.no_grad():
        for name, tensor in held.items():
            own[name].copy_(tensor)


def _before(matrix: nn.Module, given: Any) -> Any:
    return (given[0] + cast(Any, matrix.bottleneck)(given[0]), *given[1:])


def _behind(matrix: nn.Module, given: Any, made: Tensor) -> Any:
    return made + cast(Any, matrix.bottleneck)(made)


def _beside(matrix: nn.Module, given: Any, made: Tensor) -> Any:
    return made + cast(Any, matrix.bottleneck)(given[0])
