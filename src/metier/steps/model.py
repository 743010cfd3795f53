"""The model to start from: `smollm2` (embedded), a hub name, or a local folder.

Options:
    path: what to load; the embedded model is converted once and kept.
Raises: MetierError when there is no such model, no tokenizer, pickle weights only, or no network.
"""

from __future__ import annotations

from metier.artefacts import Model
from metier.lm import load
from metier.options import Place
from metier.store import Work

EXAMPLE = {"path": "{model}"}
fingerprints = {"run": load.fingerprint}
checks = {"run": load.refuse}


def run(*, path: Place = "smollm2", work: Work) -> Model:
    return load.resolve(path, work)
