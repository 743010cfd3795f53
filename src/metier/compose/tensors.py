"""From several models one, tensor by tensor: the relation is checked, methods only see one tensor at a time.

A merge method is a pure function ``merge(base, experts: {name: tensor}, here) -> tensor``. The walk owns the rest:
files and shards, ties, adapters, tokens that only some have, dtypes, licences, the folder that comes out. A file of the
room may also have ``survey(base, experts) -> anything small``; it is called for every tensor before the first is
merged, and ``here.survey`` holds what it gave (a trim over the whole model needs that).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier.artefacts import Model
from metier.compose import weights
from metier.compose.weights import Weights
from metier.disk import files_digest, write_json
from metier.lm import load, vocabulary
from metier.options import MetierError, unknown
from metier.store import Work, replacing

BASE = "the base"
# Settings in which related models may differ: they change no tensor's meaning.
FREE = {
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "vocab_size",
    "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout", "hidden_dropout",
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "pretraining_tp", "max_position_embeddings",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Here:
    """Where in the model a merge method is."""

    name: str  # of the tensor
    seed: int = 0
    survey: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # tensor → what the file's ``survey`` gave

    def generator(self, expert: str) -> torch.Generator:
        """Randomness for one expert's tensor, whatever else is merged and in which order."""
        digest = hashlib.sha256(f"{self.seed}\x1f{self.name}\x1f{expert}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Family:
    """A base and its experts, found to be of one kind.

    ``lead`` is the one whose tokenizer the result gets. Where its tokens are more than another's, that one takes the
    rows it lacks from it, so that nobody pulls at a token he does not know.
    """

    def __init__(self, owner: str, base: Model, experts: Mapping[str, Model], tokenizer: str | None = None) -> None:
        if not experts:
            raise MetierError(f"{owner}: there is no expert")
        if tokenizer is not None and tokenizer not in experts:
            raise unknown(owner, tokenizer, experts, "expert")
        self.owner, self.aligned = owner, tokenizer is not None
        self.base = Weights(base)
        self.experts = {name: Weights(expert) for name, expert in sorted(experts.items())}
        self.lead = self.experts[tokenizer] if tokenizer is not None else self.base
        tokenizers = {name: load.tokenizer_of(w.model) for name, w in self.members.items()}
        if tokenizer is None:
            vocabulary.same(owner, tokenizers)
        else:
            vocabulary.within(owner, tokenizers, tokenizer)
        self.tokens = {name: max(found.get_vocab().values()) + 1 for name, found in tokenizers.items()}
        for name, expert in self.experts.items():
            self._same_kind(name, expert)

    @property
    def members(self) -> dict[str, Weights]:
        return {BASE: self.base, **self.experts}

    def shape(self, name: str) -> tuple[int, ...]:
        return self.lead.shapes[name]

    def read(self, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The tensor of the base, and of every expert."""
        return self._rows(BASE, name), {expert: self._rows(expert, name) for expert in self.experts}

    def _rows(self, member: str, name: str) -> Tensor:
        found = self.members[member]
        tensor = found[name]
        if not self.aligned or found is self.lead or name not in self.base.by_token:
            return tensor
        return torch.cat([tensor[: self.tokens[member]], self.lead[name][self.tokens[member] :]])

    def _same_kind(self, name: str, expert: Weights) -> None:
        base = self.base
        heads = expert.model.head, base.model.head
        if heads[0] != heads[1]:
            raise MetierError(f"{self.owner}: '{name}' has the head '{heads[0]}', the base '{heads[1]}'")
        one, other = base.skeleton.config.to_dict(), expert.skeleton.config.to_dict()
        for key in sorted({*one, *other} - FREE):
            if one.get(key) != other.get(key):
                raise MetierError(f"{self.owner}: '{name}' is built otherwise than the base: its {key} is "
                                  f"{other.get(key)}, the base's {one.get(key)}")  # fmt: skip
        for tensor in sorted({*base.names, *expert.names}):
            shapes = [tuple(w.shapes.get(tensor, ())) for w in (base, expert)]
            if self.aligned and tensor in base.by_token:
                shapes = [shape[1:] for shape in shapes]
            if tensor not in base.shapes or tensor not in expert.shapes or shapes[0] != shapes[1]:
                raise MetierError(f"{self.owner}: the tensor '{tensor}' is {_size(expert, tensor)} in '{name}' and "
                                  f"{_size(base, tensor)} in the base")  # fmt: skip


def walk(
    family: Family, method: Callable[..., Tensor], *, seed: int, farthest: float, work: Work
) -> tuple[Model, dict[str, float]]:
    """The merged model in ``work.folder``/model, and how far each expert is from the base: |θ − θ₀| / |θ₀|.

    Raises MetierError when an expert is farther than ``farthest``, or a tensor comes out in another shape or as no
    number.
    """
    function: Any = getattr(method, "function", method)
    look = getattr(sys.modules[function.__module__], "survey", None)
    moved, length = dict.fromkeys(family.experts, 0.0), [0.0]
    with work.progress("merging", len(family.base.names)) as bar:
        survey = {name: look(*family.read(name)) for name in family.base.names} if look else {}

        def make(name: str) -> Tensor:
            base, experts = family.read(name)
            bar.advance()
            if not base.is_floating_point():
                return _equal(family.owner, name, base, experts)
            length[0] += weights.squares(base)
            for expert, tensor in experts.items():
                moved[expert] += sum(weights.squares(t.to(b.dtype) - b) for t, b in weights.chunks(tensor, base))
            merged = method(base, experts, Here(name, seed, survey))
            if merged.shape != base.shape or not math.isfinite(weights.squares(merged)):
                wrong = f"of another shape, {list(merged.shape)}" if merged.shape != base.shape else "not finite"
                raise MetierError(f"{family.owner}: the merged '{name}' is {wrong}")
            return merged

        with replacing(work.folder / "model") as folder:
            write(folder, family.lead, family.base, make)
            distances = {name: math.sqrt(square / (length[0] or 1.0)) for name, square in moved.items()}
            for name, distance in distances.items():
                if distance > farthest:
                    raise MetierError(
                        f"{family.owner}: '{name}' is no descendant of the base: its weights differ by "
                        f"{distance:.2f} of the base's length, allowed is {farthest:g} ('farthest')"
                    )
    return Model(folder_of(work), files_digest(folder_of(work)), head=family.base.model.head), distances


def folder_of(work: Work) -> Path:
    """Where a composed model lies."""
    return work.folder / "model"


def write(folder: Path, lead: Weights, base: Weights, make: Callable[[str], Tensor]) -> None:
    """A plain transformers folder: the tensors ``make`` gives, in the dtypes of ``base``, all else from ``lead``."""
    config = lead.config | {k: v for k, v in base.config.items() if k in ("dtype", "torch_dtype")}
    write_json(folder / "config.json", config)
    settings = lead.root.path / "generation_config.json"
    if settings.exists():
        write_json(folder / settings.name, json.loads(settings.read_text(encoding="utf-8")))
    load.tokenizer_of(lead.model).save_pretrained(folder)
    shapes = {name: lead.shapes[name] for name in base.names}
    weights.write(folder, shapes, base.dtypes, make)


def parents(base: Model, experts: Mapping[str, Model]) -> dict[str, Any]:
    """What a composed model's notes say of where it comes from; a licence only when that of every parent is known."""
    held = {BASE: licence(base)} | {name: licence(expert) for name, expert in experts.items()}
    facts = {
        "base": {"source": base.source, "digest": base.digest, "licence": held[BASE]},
        "experts": {name: {"source": expert.source, "digest": expert.digest, "licence": held[name]}
                    for name, expert in sorted(experts.items())},
    }  # fmt: skip
    known = {found for found in held.values() if found is not None}
    joint = {"licence": " AND ".join(sorted(known))} if None not in held.values() else {}
    return {"parents": facts} | joint


def licence(model: Model) -> str | None:
    """What its notes say, or else those of the model it sits on."""
    found = model.notes.get("licence")
    return str(found) if found else licence(model.base) if model.base else None


def _equal(owner: str, name: str, base: Tensor, experts: Mapping[str, Tensor]) -> Tensor:
    """Whole numbers (tables, masks) can't be mixed."""
    for expert, tensor in experts.items():
        if not torch.equal(tensor, base):
            raise MetierError(f"{owner}: '{name}' holds whole numbers that differ in '{expert}' and the base")
    return base


def _size(of: Weights, tensor: str) -> str:
    return " × ".join(map(str, of.shapes[tensor])) if tensor in of.shapes else "missing"
