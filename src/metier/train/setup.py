"""What a training step is made of: Setup (the slots, unrun), Network, Trainable, Clock."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from metier.artefacts import KINDS, Artefact, Model, Part, Records
from metier.disk import write_json
from metier.lm.recompute import recompute
from metier.options import (
    Bound,
    Count,
    Duration,
    MetierError,
    NonNegative,
    Objective,
    Optimizer,
    Parameters,
    Positive,
    Schedule,
    Seed,
    Term,
    checked,
    fields,
)
from metier.store import Work, sync
from metier.train.batches import Batch
from metier.train.slots import SLOTS, refuse, suit, takes
from metier.train.state import accelerator

Length = Annotated[int, Field(ge=2)]
Opened = Callable[[Model], tuple[nn.Module, PreTrainedTokenizerBase]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """The slots of a training step, and how long and how large it is. Its fields are options of every loop.

    Options:
        parameters: which weights move.
        objective: the loss.
        terms: regularisers added to it.
        optimizer: how gradients become steps; its `lr` is the peak of the schedule.
        schedule: how the learning rate changes from start to end.
        epochs: passes over the data; fractions are allowed. Exactly one of `epochs`, `steps` and `tokens` is given.
        steps: optimizer steps.
        tokens: input tokens, padding not counted; the step that reaches the number is the last.
        batch: records (rows, when texts are packed) a step, at most; 16 when `step_tokens` is not given either. An
            epoch is cut evenly, so its last step is no smaller than the others.
        step_tokens: tokens a step, about, instead of a number of records.
        micro_tokens: tokens computed at once, padding counted: bounds memory, changes no result. 512, more on a GPU.
        recompute: what blocks compute is computed again for the backward pass instead of kept (activation or gradient
            checkpointing): much less memory for a second forward pass, the same result.
        length: longest record in tokens; texts are packed into rows of this length, conversations are cut.
        order: *buckets* shuffles every epoch and sorts by length inside a step; *given* keeps the order of the data.
        max_grad_norm: gradients longer than this are shortened to it; 0 leaves them.
        precision: *fp32*; *bf16* computes in bfloat16 on float32 weights; *auto* is bf16 on a GPU that has it.
        seed: of order, dropout and new weights.
        dev: records whose loss is watched; the weights with the best one are returned. Never the test records.
        dev_tokens: tokens of `dev` a look computes, about: rows evenly spread, the same in every look.
        evaluate_every: steps between looks at `dev`; five looks when not given.
        patience: looks without a better loss before training stops; it goes on to the end when not given.
        checkpoint_every: time between checkpoints.
    """

    parameters: Parameters = "lora"  # type: ignore[assignment]
    objective: Objective = "cross_entropy"  # type: ignore[assignment]
    terms: list[Term] = dataclasses.field(default_factory=list)
    optimizer: Optimizer = "adamw"  # type: ignore[assignment]
    schedule: Schedule = "cosine"  # type: ignore[assignment]
    epochs: Positive | None = None
    steps: Count | None = None
    tokens: Count | None = None
    batch: Count | None = None
    step_tokens: Count | None = None
    micro_tokens: Count | None = None
    recompute: bool = False
    length: Length = 512
    order: Literal["buckets", "given"] = "buckets"
    max_grad_norm: NonNegative = 1.0
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    seed: Seed = 0
    dev: Records | None = None
    dev_tokens: Count = 4096
    evaluate_every: Count | None = None
    patience: Count | None = None
    checkpoint_every: Duration = 60.0
    work: Work

    ROLE: ClassVar[str] = "spread"

    def __post_init__(self) -> None:
        for slot, verb in SLOTS.items():  # from Python a slot may be a name
            given = getattr(self, slot)
            room = f"train.{slot.removesuffix('s') if slot == 'terms' else slot}"
            if slot == "terms":
                object.__setattr__(self, slot, [method(room, verb, g) if isinstance(g, str) else g for g in given])
            elif isinstance(given, str):
                object.__setattr__(self, slot, method(room, verb, given))
        for field in fields(Setup):
            if field.kind == "value":
                object.__setattr__(self, field.name, checked("train", field, getattr(self, field.name)))
        if self.batch is not None and self.step_tokens is not None:
            raise MetierError("train: give 'batch' or 'step_tokens', not both")
        if self.patience is not None and self.dev is None:
            raise MetierError("train: 'patience' needs 'dev', the records whose loss is watched")

    @classmethod
    def agree(cls, owner: str, values: Mapping[str, Any], loop: ModuleType) -> None:
        """Refuses, before anything runs, slots that do not go together in a loop's file; ``values`` may be references.

        Raises MetierError naming the method.
        """
        slots = getattr(loop, "SLOTS", None)
        if slots is None:
            return
        known = {f.name for f in fields(Setup)} & set(values)
        later = {name for name in known if type(values[name]).__name__ == "Ref"}  # a number that the run will tell
        given = {n: values[n] for n in known - later} | dict.fromkeys(later & {"epochs", "steps", "tokens", "batch"}, 1)
        if "dev" in later:
            given["dev"] = values["dev"]
        setup = cls(**given, work=cast(Work, None))
        refuse(setup, owner, slots)
        suit(setup, owner, getattr(loop, "REPLIES", 1), getattr(loop, "SPEAKERS", True))

    def prepared(self, network: Network, data: Records, owner: str) -> Trainable:
        """The network with the weights that move; ``parameters`` sees the data where it asks for them."""
        given = (network, data) if takes(self.parameters, "data") else (network,)
        made: Trainable = self.parameters(*given)
        if self.recompute:
            recompute(made.network.module, owner)
        return made

    def once(self, name: str, make: Callable[[Setup], Artefact]) -> Any:
        """What ``make`` gives, made once: after a kill the same call finds it again.

        ``make`` receives this Setup with a folder of its own among the checkpoints. All of it goes with them when the
        step is finished, so the step's result must not build on files that lie there.
        """
        folder, processes = self.work.folder / "checkpoints" / name, accelerator()
        mark = folder / "made.json"
        found = mark.exists()
        processes.wait_for_everyone()  # all have looked before one writes
        if not found:
            own = Work(folder, self.work.progress, self.work.above, self.work.begun)
            made = make(dataclasses.replace(self, work=own))
            if processes.is_main_process:
                made.save(folder)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                sync(folder)
                write_json(mark.with_suffix(".tmp"), {"kind": type(made).__name__})
                mark.with_suffix(".tmp").rename(mark)
            processes.wait_for_everyone()
        return KINDS[json.loads(mark.read_text(encoding="utf-8"))["kind"]].load(folder)


@dataclasses.dataclass(frozen=True)
class Network:
    """An opened Model on its way into training: what ``prepare`` receives. ``source`` is the artefact it came from."""

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    source: Model


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where training stands, for hooks: ``step`` of ``steps`` is under way or just done, counted from 0."""

    step: int
    steps: int
    epoch: int
    tokens: int  # trained on so far, this step included
    micro_batches: int  # of this step
    optimizer: torch.optim.Optimizer

    @property
    def done(self) -> float:
        """Share of the training, in [0, 1)."""
        return self.step / self.steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainable:
    """What ``prepare`` returns: a module whose chosen weights require gradients, and hooks around the steps.

    ``groups`` are the optimizer's parameter groups; a group may carry ``scale``, a factor on its learning rate (0 is
    legal; hooks change it through ``clock.optimizer.param_groups``), and its own ``weight_decay``.
    In every step: ``before_batch(batch)`` and ``penalty(batch)`` per micro-batch (a penalty that does not depend on the
    batch is multiplied by ``batch.share``), ``edit(clock)`` on whole gradients after the last backward and before
    clipping, ``after_step(clock)`` after the optimizer moved. ``state()`` goes into every checkpoint, ``load`` takes it
    back. ``finish(folder)`` writes the result there.
    """

    network: Network
    groups: list[dict[str, Any]]
    finish: Callable[[Path], Model | Part]
    before_batch: Callable[[Batch], Batch] | None = None
    penalty: Callable[[Batch], Tensor] | None = None
    edit: Callable[[Clock], None] | None = None
    after_step: Callable[[Clock], None] | None = None
    state: Callable[[], dict[str, Tensor]] | None = None
    load: Callable[[dict[str, Tensor]], None] | None = None


def method(room: str, verb: str, name: str, **values: Any) -> Bound:
    """A method with options bound, for Python: ``method("train.optimizer", "optimizer", "adamw", lr=1e-4)``."""
    try:
        module = importlib.import_module(f"metier.{room}.{name}")
    except ModuleNotFoundError:
        raise MetierError(f"{room}: has no method '{name}'") from None
    return Bound(f"{room}.{name}", getattr(module, verb), values)


def derive(seed: int, *parts: object) -> int:
    """A seed in [0, 2⁶³) that depends on every part and on nothing else."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def trained(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights that move, as they are now: what a term keeps of the start."""
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
