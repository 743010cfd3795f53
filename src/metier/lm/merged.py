"""An adapter folded into the weights, and the check that nothing changed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from metier.artefacts import Model
from metier.lm import bottleneck, load
from metier.options import MetierError

AGREE = 0.99  # share of next tokens that must be the same; float32 sums in another order may flip a near tie
TEXTS = (
    "A specialist answers the questions of one field better than anybody else, and says so when it does not know.",
    "The river rose by two metres in a single night, and in the morning the lower bridge was gone.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "1. Open the valve slowly.\n2. Wait until the needle stands still.\n3. Write down what it shows.",
)


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Writes a dense transformers folder and returns how close it is to the unmerged model.

    ``max_logit_change`` is the largest absolute difference of any logit, ``token_agreement`` the share of positions
    with the same likeliest next token. Raises MetierError when the two disagree, or what lies over the model cannot be
    folded in.
    """
    bottleneck.refuse("export", model)
    network, tokenizer = load.network(model)
    batch = [tokenizer(text, return_tensors="pt")["input_ids"].to(network.device) for text in TEXTS]
    before = [_logits(network, ids) for ids in batch]
    dense: Any = cast(Any, network).merge_and_unload()
    after = [_logits(dense, ids) for ids in batch]
    change = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    same = torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(after, before, strict=True)])
    agreement = float(same.float().mean())
    if agreement < AGREE:
        raise MetierError(f"export: the merged model picks another token at {1 - agreement:.1%} of the positions")
    with load.quiet():
        dense.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return {"max_logit_change": change, "token_agreement": agreement, "positions": int(same.numel())}


@torch.no_grad()
def _logits(network: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return network(input_ids=ids).logits[0]  # [time, vocab]
