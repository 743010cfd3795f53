"""What a training has come to, the log cut back to it, and on what it computes."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from metier import memory
from metier.options import MetierError
from metier.store import Work

# What divides one model among processes; accelerate gives it to accelerators alone, and says nothing on CPUs.
DIVIDING = {
    "FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron": "ACCELERATE_USE_MEGATRON_LM",
}  # fmt: skip
PATIENCE = timedelta(days=30)  # for the first process, which may be at a step that the others only wait for


@dataclasses.dataclass
class State:
    """What training has come to; all of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    steps_high: int = 0
    evaluated: int = -1  # the step of the last look at dev
    first_dev: float | None = None
    best_dev: float | None = None
    best_step: int | None = None
    looks_without_gain: int = 0
    looks: list[list[float]] = dataclasses.field(default_factory=list)  # [share of the training done, dev loss]


def accelerator() -> Accelerator:
    """The processes that train together: all that a launcher such as torchrun has started, on CPUs as well.

    Raises MetierError when they are not joined (each would train by itself, and write to the same folder), or the
    launcher was told to divide the model among them, which has been tried on no machine here.
    """
    for name, variable in DIVIDING.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise MetierError(f"train: every process holds the whole model; launch without {name} ({variable} is set)")
    # Under torchrun on CPUs accelerate leaves each process alone, and says nothing, unless it is told of them.
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    made = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patient])
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if made.num_processes != started:
        raise MetierError(f"train: {started} processes were started, but accelerate joins {made.num_processes} here")
    return made


def rewind(work: Work, state: State, begins: bool) -> None:
    """Drops the log rows a killed run wrote after its last checkpoint, or all when it begins; they come again."""

    def stays(row: dict[str, Any]) -> bool:
        if "stage" in row:  # of a training before this one
            return True
        if "dev_loss" in row:
            return bool(row["step"] <= state.evaluated)
        return bool(row["step"] <= state.step) if "loss" in row else not (begins and "kept" in row)

    path = work.folder / "log.jsonl"
    if path.exists():
        rows = [row for row in work.rows() if stays(row)]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(path)


def peak_memory() -> int:
    """Bytes at most: of the GPU where there is one, else of this process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()


def precision(device: str, wanted: str) -> AbstractContextManager[Any]:
    """Where the network computes in bfloat16 while its weights stay float32; *auto*: on a GPU that has it."""
    auto = device == "cuda" and torch.cuda.is_bf16_supported()
    if wanted == "bf16" or (wanted == "auto" and auto):
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()
