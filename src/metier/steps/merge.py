"""One model from several of the same base, by a method of `compose.merge`.

Experts are models trained from the base, whole or as LoRA adapters (their products are added tensor by tensor; memory
holds one tensor of each). The result is a plain transformers folder in the base's precision.

Options:
    method: how the tensors are merged.
    tokenizer: the expert whose tokenizer, chat template and added tokens the result takes; the base's when not given,
        and then all must have the same tokens.
    farthest: an expert whose weights differ from the base's by more than this part of their length is refused as no
        descendant of it.
    seed: for methods that draw.
Raises: MetierError when the models are not of one kind, an adapter is no plain LoRA, or tokens differ.
"""

from __future__ import annotations

import dataclasses
import importlib

from metier.artefacts import Model
from metier.compose import tensors
from metier.options import Merge, Positive, Seed
from metier.store import Work

EXAMPLE = {"farthest": 2.0}  # two networks of random weights


def run(
    base: Model, experts: dict[str, Model], *, method: Merge = "linear",  # type: ignore[assignment]
    tokenizer: str | None = None, farthest: Positive = 0.5, seed: Seed = 0, work: Work,
) -> Model:  # fmt: skip
    if isinstance(method, str):  # called from Python
        method = importlib.import_module(f"metier.compose.merge.{method}").merge
    family = tensors.Family("merge", base, experts, tokenizer)
    made, distances = tensors.walk(family, method, seed=seed, farthest=farthest, work=work)
    work.log(event="merge", tensors=len(family.base.names), distances=distances)
    notes = {"method": "merge", "distances": distances} | tensors.parents(base, experts)
    return dataclasses.replace(made, source=base.source, notes=notes)
