"""Checkpoints that survive a kill at any moment: safetensors and JSON, hashed, written aside and renamed last.

``checkpoints/step-000120/`` holds named groups of tensors (``weights``, ``optimizer``, ``method``, ``memory``),
``state.json`` and ``manifest.json`` with the sha256 of each file. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metier.disk import write_json, writing
from metier.store import replacing

KEPT = 2
Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Groups of tensors and plain facts of one moment; ``state["step"]`` steps were done."""

    groups: dict[str, Tensors]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int | None = None) -> None:
    """Writes the checkpoint, then drops all but the newest two and the one of step ``keep`` (the best so far)."""
    with replacing(_place(folder, checkpoint.state["step"])) as temporary:
        for name, tensors in checkpoint.groups.items():
            file = temporary / f"{name}.safetensors"
            with writing(file):
                save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, file)
        write_json(temporary / "state.json", checkpoint.state)
        write_json(temporary / "manifest.json", {p.name: _hash(p) for p in sorted(temporary.iterdir())})
    newest = sorted(folder.glob("step-*"), reverse=True)
    complete = [p for p in newest if not p.name.endswith(".tmp")]
    for path in newest:
        if path not in complete[:KEPT] and (keep is None or path != _place(folder, keep)):
            shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint, and a sentence for each that was skipped."""
    skipped: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)  # never finished, nobody waits for it
            continue
        problem = _problem(path)
        if problem is None:
            found = _load(path)
            best = found.state.get("best_step")
            kept = path if best is None else _place(folder, best)
            problem = _problem(kept)
            if problem is None:
                return found, skipped
            problem = f"the best so far, {kept.name}, cannot be used: {problem}"
        skipped.append(f"checkpoint {path.name} is skipped: {problem}")
        shutil.rmtree(path, ignore_errors=True)  # its place is needed when training comes by again
    return None, skipped


def at(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step, which must exist."""
    return _load(_place(folder, step))


def flat(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """An optimizer's state as tensors named ``<parameter>.<name>``, and its plain numbers and group settings."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {"state": {}, "groups": []}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain["state"][f"{index}.{name}"] = value
    plain["groups"] = [
        {k: v for k, v in group.items() if isinstance(v, bool | int | float | str)} for group in optimizer.param_groups
    ]
    return tensors, plain


def restore(optimizer: torch.optim.Optimizer, tensors: Tensors, plain: dict[str, Any]) -> None:
    """The inverse of ``flat``. Unlike ``load_state_dict`` it casts nothing: index tensors stay integers."""
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    for key, value in [*tensors.items(), *plain["state"].items()]:
        index, _, name = key.partition(".")
        parameter, group = parameters[int(index)]
        # A step counter stays on the CPU even when its parameter does not, except in fused optimizers.
        moves = isinstance(value, Tensor) and (value.dim() > 0 or group.get("fused"))
        moved = value.to(parameter.device) if moves else value
        optimizer.state[parameter][name] = moved.clone() if isinstance(moved, Tensor) else moved
    for group, settings in zip(optimizer.param_groups, plain["groups"], strict=True):
        group.update(settings)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def _problem(path: Path) -> str | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or torn"
    for name, digest in manifest.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _hash(path / name) != digest:
            return f"{name} is torn"
    return None


def _load(path: Path) -> Checkpoint:
    groups = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
    return Checkpoint(groups, json.loads((path / "state.json").read_text(encoding="utf-8")))


def _hash(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
