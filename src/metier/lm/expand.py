"""Surgery on the blocks of a network: a copy that changes nothing put in behind a block, a block passed by.

A block adds to the stream of hidden states through two matrices: the output of its attention and that of its
feed-forward part. With both at zero it adds nothing, so a copy with these two at zero leaves every logit as it was, and
can learn from there. What is made is a plain model of its architecture with more blocks: it is saved, loaded and asked
like any other. Which matrices they are, `lm.blocks` knows by their names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from metier.lm.blocks import NAMES, placed
from metier.lm.loss import decoder
from metier.options import MetierError

OUTPUTS = {"o": "attention", "down": "feed-forward"}  # roles of the matrices that add to the hidden states
PER_BLOCK = ("layer_types", "no_rope_layers")  # lists of a config with an entry for each block
TRIED = 8  # tokens on which the grown network is compared
NEAR = 1e-5  # of the largest logit


def blocks(network: nn.Module, owner: str) -> nn.ModuleList:
    """The blocks of a network, the lowest first. Raises MetierError when it keeps them in no list of its own."""
    return cast(nn.ModuleList, getattr(decoder(network), _list(network, owner)))


def prefix(network: nn.Module, owner: str) -> str:
    """What the names of all tensors in blocks begin with: ``model.layers.``, then the number of the block."""
    wanted = blocks(network, owner)
    return next(name for name, module in network.named_modules() if module is wanted) + "."


def check(numbers: Sequence[int], count: int, owner: str) -> None:
    """Raises MetierError for the number of a block that is not there, or is named twice."""
    for number in numbers:
        if not 0 <= number < count:
            raise MetierError(f"{owner}: there is no block {number}; the model has {count}, counted from 0")
        if list(numbers).count(number) > 1:
            raise MetierError(f"{owner}: block {number} is named twice")


@torch.no_grad()
def insert(network: nn.Module, after: Sequence[int], owner: str) -> list[int]:
    """Puts a copy that changes nothing behind each block in ``after``; returns the numbers of the copies.

    The numbers are those of the grown network; the original of copy c is block c − 1. Which tensors require gradients
    is left to the caller. Raises MetierError when the outputs of a block are not known by their names, or its blocks
    depend on their number or do more than add to the hidden states.
    """
    place, old = _list(network, owner), blocks(network, owner)
    check(after, len(old), owner)
    config = _config(network)
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise MetierError(f"{owner}: what a block of this model does depends on its number, so none can be put between")
    before = _said(network)
    grown: list[nn.Module] = []
    copies = []
    for number, block in enumerate(old):
        grown.append(block)
        if number in after:
            copies.append(len(grown))
            grown.append(_silenced(copy.deepcopy(block), str(config.model_type), owner))
    setattr(decoder(network), place, nn.ModuleList(grown))
    origin = [n for n in range(len(old)) for _ in range(2 if n in after else 1)]
    for name in PER_BLOCK:
        entries = getattr(config, name, None)
        if isinstance(entries, list) and len(entries) == len(old):
            setattr(config, name, [entries[n] for n in origin])
    config.num_hidden_layers = len(grown)
    for number, block in enumerate(grown):  # by these numbers the cache of generation keeps blocks apart
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                cast(Any, module).layer_idx = number
    if _differ(before, _said(network)):
        kind = type(network).__name__
        raise MetierError(f"{owner}: a silent copy of a block changes what this {kind} says, so it cannot be grown")
    return copies


@contextmanager
def bypassed(block: nn.Module) -> Iterator[None]:
    """Meanwhile what enters the block leaves it unchanged."""

    def unchanged(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return (_entered(args, kwargs), *output[1:]) if isinstance(output, tuple) else _entered(args, kwargs)

    handle = block.register_forward_hook(unchanged, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(blocks: nn.ModuleList, look: Callable[[Tensor], None]) -> Iterator[None]:
    """``look(hidden)`` sees what enters each block in turn, and in the end what leaves the last one.

    ``hidden`` [batch, time, dim] is taken before the final norm.
    """

    def enters(module: nn.Module, args: Any, kwargs: Any) -> None:
        look(_entered(args, kwargs))

    def leaves(module: nn.Module, args: Any, output: Any) -> None:
        look(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_pre_hook(enters, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(leaves))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entered(args: Any, kwargs: Any) -> Tensor:
    return cast(Tensor, args[0] if args else kwargs["hidden_states"])


def _list(network: nn.Module, owner: str) -> str:
    """What the decoder calls the list of its blocks."""
    config = _config(network)
    for name, child in decoder(network).named_children():
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
            return name
    raise MetierError(f"{owner}: cannot find the {config.num_hidden_layers} blocks of a '{config.model_type}'")


def _silenced(block: nn.Module, kind: str, owner: str) -> nn.Module:
    tensors = dict(block.named_parameters())
    roles = {name: placed(f"layers.0.{name}").role for name in tensors}
    for role, part in OUTPUTS.items():
        if role not in roles.values():
            known = ", ".join(name for name, one in NAMES.items() if one == role)
            raise MetierError(f"{owner}: the {part} output of a '{kind}' block is called none of: {known}")
    for name, tensor in tensors.items():
        if roles[name] in OUTPUTS:
            tensor.zero_()
    return block


def _config(network: nn.Module) -> Any:
    inner: Any = network.get_base_model() if isinstance(network, PeftModel) else network
    return inner.config.get_text_config()


def _said(network: nn.Module) -> Tensor | None:
    """Logits of a few tokens, to compare; None where there are only shapes."""
    first = next(network.parameters())
    if first.is_meta:
        return None
    was_training = network.training
    ids = torch.arange(TRIED, device=first.device)[None] % int(_config(network).vocab_size)
    logits = cast(Tensor, network.eval()(input_ids=ids, use_cache=False).logits).float()
    network.train(was_training)
    return logits


def _differ(before: Tensor | None, now: Tensor | None) -> bool:
    if before is None or now is None:
        return False
    return not float((now - before).abs().max()) <= NEAR * (1 + float(before.abs().max()))
