"""How much memory and disk a model takes to ask and to train, from shapes alone.

The network is built on torch's *meta* device: its tensors have shapes and no content, so nothing is loaded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from metier.lm import load
from metier.store import home, replacing

FLOAT = 4  # bytes; weights are opened in float32
LIBRARIES = 0.75 * 2**30  # what a process with torch and transformers takes before it opens a model
LOGITS = 3 * (32 << 20)  # a chunk of logits, its softmax and its gradient (lm/loss.py)
STATE = 4  # numbers a trained weight: itself, its gradient, two of the optimizer
ASKED_TOKENS = 2048  # computed at once when a model is asked
KEPT = 4  # checkpoints: two, the best, and the one being written
HELD = 3  # numbers a weight in a checkpoint


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


def trained(module: nn.Module, micro_tokens: int) -> int:
    """Bytes a process holds that trains the weights of ``module`` which require gradients."""
    moving = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = _weights(module) - moving
    kept = micro_tokens * _width(module) * _moving_blocks(module)
    return round(LIBRARIES + FLOAT * (frozen + STATE * moving + kept) + LOGITS)


def written(module: nn.Module, whole: bool) -> int:
    """Bytes on disk while it trains: checkpoints with optimizer state, and the result."""
    moving = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return FLOAT * (KEPT * HELD * moving + (_weights(module) if whole else moving))


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _width(module: Any) -> int:
    """Numbers a block keeps a token for its backward pass: nine of the model's width, four of the inner one."""
    config = module.config.get_text_config()
    return 9 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)


def _moving_blocks(module: Any) -> int:
    """Blocks from the lowest one with a weight that moves upwards: backward ends below it."""
    blocks = module.config.get_text_config().num_hidden_layers
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    numbers = [int(part) for name in names for part in name.split(".") if part.isdigit() and int(part) < blocks]
    below = any("embed" in name for name in names)
    return blocks if below or not numbers else blocks - min(numbers)


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
