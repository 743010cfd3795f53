"""What several processes find important: ``torchrun --nproc_per_node 2 importance_processes.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from metier.artefacts import Model, Records
from metier.laws import toy as maker
from metier.lm import expand, load
from metier.train.parameters import _importance
from metier.train.setup import Network
from metier.train.state import accelerator

MIXED = Records.from_rows([*maker.texts(5, seed=9), *({**row, "text": None} for row in maker.questions(8, seed=9))])


def found(model: Model) -> dict[str, list[float]]:
    network = Network(*load.network(model), model)
    probes = _importance.probes("x", network, MIXED, 10_000)
    tensors = list(expand.blocks(network.module, "x").parameters())
    return {
        "ablation": _importance.ablation(network.module, probes, "x").tolist(),
        "taylor": _importance.taylor(network.module, probes, tensors).tolist(),
        "profile": _importance.profile(network.module, probes, 1, "mean", "x").tolist(),
    }


def main(folder: Path) -> None:
    processes = accelerator()
    told = found(Model.load(folder)) | {"world": processes.num_processes}
    (folder / f"rank-{processes.process_index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
