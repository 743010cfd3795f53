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
