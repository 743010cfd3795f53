from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from metier.lm import embed

pytestmark = pytest.mark.skipif(importlib.util.find_spec(embed.PACKAGE) is None, reason="the encoder is not installed")


def test_vectors_have_length_one_and_like_lies_near_like():
    heard = []
    texts = ["The river rose in the night.", "At night the water of the stream went up.", "def area(r): return r * r"]
    found = embed.encode(texts, advance=heard.append)
    assert found.shape == (3, embed.DIMENSIONS)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found[0] @ found[1] > 0.5 > 0.2 > found[0] @ found[2]
    assert sum(heard) == 3
    assert embed.encode(texts[2:])[0] == pytest.approx(found[2], abs=1e-5)
    assert embed.encode([]).shape == (0, embed.DIMENSIONS)
