"""How much memory and disk a model takes to ask and to train, from shapes alone.

The network is built on torch's *meta* device: its tensors have shapes and no content, so nothing is loaded. What a
forward pass keeps for the backward pass is counted by doing one on shapes.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from metier.lm import load
from metier.lm.expand import blocks, watched
from metier.lm.loss import decoder
from metier.store import home, replacing

FLOAT = 4  # bytes; weights are opened in float32
LIBRARIES = 0.65 * 2**30  # what a process with torch and transformers takes before it opens a model
LOGITS = 3 * (32 << 20)  # a chunk of logits, its softmax and its gradient (lm/loss.py)
STATE = 4  # numbers a trained weight: itself, its gradient, two of the optimizer
ASKED_TOKENS = 2048  # computed at once when a model is asked
KEPT = 4  # checkpoints: two, the best, and the one being written
HELD = 3  # numbers a weight in a checkpoint
AT_ONCE = 512  # tokens computed at once on a CPU, where more are no faster; at least as many on a GPU …
MOST_AT_ONCE = 16_384  # … and at most so many, if they fit
HEAP = 2.2  # bytes taken for one that is kept: blocks freed between kept ones stay with the process (measured)


def network(path: str) -> nn.Module | None:
    """The shapes of a model; None when it is not on this machine, or writes no text."""
    try:
        config = _config(path)
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            found: nn.Module = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):
        return None
    return found


def asked(module: nn.Module) -> int:
    """Bytes a process holds that asks the model."""
    return round(LIBRARIES + _weights(module) * FLOAT + ASKED_TOKENS * _width(module) * FLOAT + LOGITS)


def trained(module: nn.Module, rows: int, length: int, *, fused: bool = False, recompute: bool = False) -> int:
    """Bytes a process holds that trains the moving weights of ``module`` on [rows, length] tokens at once.

    ``fused``: the optimizer keeps no state and frees each gradient as it comes; the largest is there twice.
    """
    sizes = [p.numel() for p in module.parameters() if p.requires_grad]
    moving = sum(sizes)
    held = moving + 2 * max(sizes, default=0) if fused else STATE * moving
    frozen = _weights(module) - moving
    kept = _kept(module, rows, length, recompute)
    return round(LIBRARIES + FLOAT * (frozen + held) + HEAP * kept + LOGITS)


def at_once(module: nn.Module, device: torch.device) -> int:
    """Tokens of a micro-batch when nobody says: on a GPU as many as two fifths of its free memory hold."""
    if device.type != "cuda":
        return AT_ONCE
    blocks = cast(Any, module).config.get_text_config().num_hidden_layers
    fit = 0.4 * torch.cuda.mem_get_info(device)[0] / (FLOAT * blocks * _width(module))
    return int(min(max(fit, AT_ONCE), MOST_AT_ONCE))


def written(module: nn.Module, whole: bool) -> int:
    """Bytes on disk while it trains: checkpoints with optimizer state, and the result."""
    moving = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return FLOAT * (KEPT * HELD * moving + (_weights(module) if whole else moving))


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _width(module: Any) -> int:
    """Numbers a block computes a token: nine of the model's width, four of the inner one."""
    config = module.config.get_text_config()
    return 9 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)


def _kept(module: nn.Module, rows: int, length: int, recompute: bool = False) -> int:
    """Bytes that autograd keeps of a forward pass through the decoder; backward ends below the lowest moving weight.

    With ``recompute`` what enters each block, and of the largest one everything.
    """
    part, kept = decoder(module), dict[int, int]()
    own = {t.untyped_storage()._cdata for t in (*part.parameters(), *part.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or another tensor would get its number
        return tensor

    alive: list[Tensor] = []
    part.train()
    ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
    so_far: list[int] = []  # at the entrance of each block, and where the last one is left
    seen = watched(blocks(module, "check"), lambda _: so_far.append(sum(kept.values()))) if recompute else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _OnShapes(), seen:
        part(input_ids=ids, use_cache=False)
    total = sum(kept.values())
    if not recompute:
        return total
    inside = [after - before for before, after in pairwise(so_far)]
    enters = FLOAT * ids.numel() * cast(Any, module).config.get_text_config().hidden_size
    return total - sum(inside) + max(inside) + enters * sum(map(bool, inside))


class _OnShapes(TorchFunctionMode):
    """What shapes alone cannot do: the fused attention of a CPU, and a question about content."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        if function is Tensor.__bool__:  # whether positions are plain and nothing is masked
            return True
        return function(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Keeps what the fused kernel keeps: queries, keys, values, its output and a number a row. Never run backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # each [batch, heads, time, width]
        batch, heads, time, _ = q.shape
        out = q.new_empty(batch, time, heads, v.shape[-1]).transpose(1, 2)  # as the kernel lays it out
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out


def _config(path: str) -> Any:
    package = load.embedded(path) if path in load.EMBEDDED else None
    if package is None:
        return AutoConfig.from_pretrained(Path(path).expanduser(), local_files_only=True)
    file = load.EMBEDDED[path][1]
    kept = home() / "configs" / file
    if not kept.exists():  # reading the header of a GGUF file takes seconds
        with replacing(kept) as temporary:
            AutoConfig.from_pretrained(package, gguf_file=file).save_pretrained(temporary)
    return AutoConfig.from_pretrained(kept)
