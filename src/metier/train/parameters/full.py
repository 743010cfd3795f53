"""Every weight moves.

For much data and a lasting change; it needs memory for gradients and optimizer state of the whole model (16 bytes a
weight with AdamW), a rate ten to fifty times below LoRA's, and forgets more.

Options:
    embeddings: whether the input and output embeddings move too.
"""

from __future__ import annotations

from typing import Any

from metier.train.parameters import freeze
from metier.train.setup import Network, Trainable


def prepare(network: Network, *, embeddings: bool = True) -> Trainable:
    """An adapter the model carries is folded in first."""
    network = freeze.dense(network)
    module: Any = network.module
    tables = {id(table.weight) for table in (module.get_input_embeddings(), module.get_output_embeddings()) if table}
    frozen = [] if embeddings else [name for name, p in module.named_parameters() if id(p) in tables]
    return freeze.prepare(network, train=["*"], keep=frozen)
