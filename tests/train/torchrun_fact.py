"""Small trainings for one process or several: ``torchrun --nproc_per_node 2 torchrun_fact.py FOLDER``.

FOLDER holds the model; each training leaves its log and its result in FOLDER/two/NAME, each process what it saw in
FOLDER/rank-N.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import objective_with_memory
from metier.artefacts import Model
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.store import Progress, Work, silent
from metier.train import examples
from metier.train.loop import pretrain, sft
from metier.train.rounds import stages
from metier.train.run import Run
from metier.train.setup import Setup, method


def sgd(groups: list[dict[str, Any]], *, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def setup(folder: Path, progress: Progress = silent, **changes: Any) -> Setup:
    given = {"epochs": 2, "batch": 11, "micro_tokens": 90, "parameters": "full", "optimizer": sgd,
             "max_grad_norm": 0.5, "precision": "fp32"} | changes  # fmt: skip
    return Setup(**given, work=Work(folder, progress))


def clipped(folder: Path, model: Model) -> Model:
    dev = maker.questions(7, seed=5)
    return sft.train(model, maker.questions(50), setup(folder, dev=dev, evaluate_every=4, terms=["l2_start"]))


def remembering(folder: Path, model: Model) -> Model:
    """The objective's memory is a median over all rows of a step, whichever process saw them."""
    adamw = method("train.optimizer", "optimizer", "adamw", lr=1e-3)
    given = {"objective": objective_with_memory.loss, "optimizer": adamw, "parameters": "lora"}
    return pretrain.train(model, maker.texts(40), setup(folder, length=24, epochs=None, steps=4, **given))


def interrupted(folder: Path, model: Model) -> Model:
    """Stopped in its second epoch and begun again."""
    try:
        sft.train(model, maker.questions(50), setup(folder, Stopping(8), checkpoint_every=1e-6))
    except Interrupt:
        return sft.train(model, maker.questions(50), setup(folder))
    raise AssertionError("nothing stopped it")


def staged(folder: Path, model: Model) -> Model:
    return stages.train(model, [maker.questions(20), maker.questions(20, seed=3)], setup(folder))


TRAININGS: list[Callable[[Path, Model], Model]] = [clipped, remembering, interrupted, staged]


def main(place: Path) -> None:
    model = Model.load(place)
    digests = [train(place / "two" / train.__name__, model).digest for train in TRAININGS]
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    assert world == 2
    wrapped = Run(model, maker.questions(8), setup(place / "three"), examples.conversations, "test").module
    seen = {
        "world": world,
        "wrapper": type(wrapped).__name__,
        "backend": torch.distributed.get_backend(),
        "digests": digests,
    }
    (place / f"rank-{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
