"""Units of a network (attention heads, inner neurons, outputs of blocks): gates on them, and their importance.

A gate multiplies what a unit gives. At 1 it changes nothing, and the gradient at it says how much the unit matters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import dropout

from metier.artefacts import Part
from metier.disk import files_digest
from metier.lm import blocks
from metier.options import MetierError
from metier.store import Work

Kind = Literal["head", "ffn", "out"]
KINDS: tuple[Kind, ...] = ("head", "ffn", "out")
FILE, METHOD = "importance.safetensors", "train.parameters.das"
Importance = dict[str, Tensor]  # kind → [blocks, units], 0 to 1


def sizes(owner: str, network: Any) -> dict[str, tuple[int, int]]:
    """Kind → (blocks, units of a block). Raises MetierError for a network without blocks that we know."""
    found = list(_blocks(owner, network))
    heads = blocks.heads(network.config)
    _, _, down = found[0]
    weight = network.get_submodule(down).weight
    axis = blocks.roles(owner, {f"{down}.weight": weight.shape})[0].axis
    out, inner = weight.shape[axis], weight.shape[1 - axis]
    return {"head": (len(found), heads.queries), "ffn": (len(found), inner), "out": (len(found), out)}


@contextlib.contextmanager
def gated(owner: str, network: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Units are multiplied by gates [blocks, units], or [rows, blocks, units] where each row has its own."""
    with contextlib.ExitStack() as hooks:
        for number, (block, reads, down) in enumerate(_blocks(owner, network)):
            one = {kind: gate[..., number, :].unsqueeze(-2) for kind, gate in gates.items()}  # [(rows,) 1, units]
            if "head" in one:
                _hook(hooks, network.get_submodule(reads).register_forward_pre_hook, _before(one["head"]))
            if "ffn" in one:
                _hook(hooks, network.get_submodule(down).register_forward_pre_hook, _before(one["ffn"]))
            if "out" in one:
                _hook(hooks, network.get_submodule(block).register_forward_hook, _behind(one["out"]))
        yield


@contextlib.contextmanager
def dropped(owner: str, network: Any, share: float) -> Iterator[None]:
    """Dropout behind the embedding, attention and the feed-forward part, whatever the network itself has."""

    def drop(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        return dropout(made, share)

    with contextlib.ExitStack() as hooks:
        _hook(hooks, network.get_input_embeddings().register_forward_hook, drop)
        for _, reads, down in _blocks(owner, network):
            for path in (reads, down):
                _hook(hooks, network.get_submodule(path).register_forward_hook, drop)
        yield


def normalised(importance: Tensor) -> Tensor:
    """|tanh((I − mean) / std)| within each block: [blocks, units] in [0, 1]."""
    centred = importance - importance.mean(-1, keepdim=True)
    return torch.tanh(centred / (importance.std(-1, keepdim=True, correction=0) + 1e-8)).abs()


def accumulated(importances: list[Importance]) -> Importance:
    """The largest of each unit."""
    return {kind: torch.stack([one[kind] for one in importances]).amax(0) for kind in importances[0]}


def write(importance: Importance, notes: dict[str, Any], work: Work) -> Part:
    folder = work.folder / "importance"
    folder.mkdir(exist_ok=True)
    save_file({kind: tensor.cpu().contiguous() for kind, tensor in importance.items()}, folder / FILE)
    return Part(folder, METHOD, files_digest(folder), notes)


def read(owner: str, part: Part, network: Any) -> Importance:
    """On the device of the network. Raises MetierError for a part of another method, or of another kind of model."""
    if part.method != METHOD:
        raise MetierError(f"{owner}: 'importance' must be made by {METHOD}.fit, got a part of {part.method}")
    found = load_file(part.path / FILE)
    wanted = sizes(owner, network)
    for kind, tensor in found.items():
        if tuple(tensor.shape) != wanted[kind]:
            held, here = (" × ".join(map(str, shape)) for shape in (tensor.shape, wanted[kind]))
            raise MetierError(f"{owner}: the importance is of another model: its '{kind}' is {held}, here it is {here}")
    device = next(network.parameters()).device
    return {kind: tensor.to(device) for kind, tensor in found.items()}


def _blocks(owner: str, network: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Paths of each block, of its matrix that reads the heads, and of the one that reads the inner neurons."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for path, _ in network.named_modules():
        place = blocks.placed(path)
        if place.block is not None and place.role in ("o", "down"):
            found.setdefault((place.block, place.stem), {})[place.role] = path
    if not found or any(len(known) < 2 for known in found.values()):
        raise MetierError(f"{owner}: finds no blocks with attention and a feed-forward part in this model")
    for (_, stem), known in sorted(found.items()):
        yield stem, known["o"], known["down"]


def _hook(hooks: contextlib.ExitStack, register: Callable[..., Any], function: Callable[..., Any]) -> None:
    hooks.callback(register(function).remove)


def _before(gate: Tensor) -> Callable[..., Any]:
    """Over what a matrix reads."""

    def multiply(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return _times(given[0], gate), *given[1:]

    return multiply


def _behind(gate: Tensor) -> Callable[..., Any]:
    """Over the hidden states that a block gives, alone or first of several."""

    def multiply(module: nn.Module, given: Any, made: Any) -> Any:
        return _times(made, gate) if isinstance(made, Tensor) else (_times(made[0], gate), *made[1:])

    return multiply


def _times(states: Tensor, gate: Tensor) -> Tensor:
    """``states`` [rows, time, units · size] (OPT: [rows · time, …]) times ``gate`` [(rows,) 1, units]."""
    wide = gate.repeat_interleave(states.shape[-1] // gate.shape[-1], -1)
    rows = len(gate) if gate.dim() > 2 else 1
    return (states.reshape(rows, -1, states.shape[-1]) * wide).view_as(states)
