"""New blocks learn, the model's own stay: copies of evenly spread blocks, silent at first.

For a field with much text when general skills must stay within reach: what the model was is still there bit for bit,
and the copies put at zero give it back. It takes a copy's memory and time for good, in training and afterwards; for
little data, or where the model must not grow, LoRA is cheaper. Which blocks are copied does not depend on any data;
`adept` and `llm_ade` choose them.

    n blocks in k even groups: behind the last block of each comes its copy, whose two output matrices are zero

Paper: 46 (its uniform baseline, LLaMA Pro: Wu et al., Progressive LLaMA with Block Expansion, 2024)
Options:
    blocks: copies.
Raises: MetierError when there are fewer blocks than copies, or the architecture is not known.
Differs: groups need not divide the number of blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metier.artefacts import Model
from metier.lm import expand
from metier.options import Count, MetierError
from metier.train.parameters import freeze
from metier.train.setup import Network, Trainable

NAME = "train.parameters.block_expansion"
EXAMPLE = {"blocks": 1}


def prepare(network: Network, *, blocks: Count = 3) -> Trainable:
    """Adapters are folded in first. The head of a classifier moves too."""
    network = freeze.dense(network)
    count = enough(network, blocks, NAME)
    after = [(i + 1) * count // blocks - 1 for i in range(blocks)]
    return moving(network, expand.insert(network.module, after, NAME), {"copied": after}, NAME)


def enough(network: Network, blocks: int, owner: str) -> int:
    """How many blocks there are. Raises MetierError when they are fewer than ``blocks``."""
    count = len(expand.blocks(network.module, owner))
    if blocks > count:
        raise MetierError(f"{owner}: 'blocks' must be at most {count}, the number of blocks, got {blocks}")
    return count


def moving(network: Network, numbers: Sequence[int], notes: dict[str, Any], owner: str) -> Trainable:
    """Only these blocks move; ``notes`` go with the result."""
    name = expand.prefix(network.module, owner)
    made = freeze.prepare(network, train=[f"{name}{number}.*" for number in numbers])

    def finish(folder: Path) -> Model:
        model = made.finish(folder)
        assert isinstance(model, Model)
        return dataclasses.replace(model, notes=model.notes | notes)

    return dataclasses.replace(made, finish=finish)
