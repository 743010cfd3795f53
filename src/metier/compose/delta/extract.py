"""What training changed, as a thing of its own: the difference of a specialist and its base.

For keeping many specialists of one base, for putting a skill into a later version of the base (trained a little
further, of the same shapes), and for turning a skill down or up. Not for a base of another origin: the numbers fit, the
meaning does not. ``make`` takes the difference, ``apply`` adds it; with a ``rank`` each matrix is kept as its best
approximation of that rank, which is small.

    Δ = θ − θ₀        Δ ≈ U·V, the first singular directions        θ' = θ₀' + scale · Δ

Differences are float32. Put back on its base at scale 1, without a rank, the specialist comes out to a rounding of
float32; of bfloat16 and float16 weights bit for bit (unless one shrank by more than 2¹⁵). At scale 0 the base comes
out.

Paper: 'Editing models with task arithmetic', Ilharco et al., 2023.
Options:
    rank: of the matrices kept; whole differences when not given. Vectors and thin matrices are kept whole.
    scale: how much of the difference is added; negative takes it away.
Raises: MetierError when the models are not of one kind or have other tokens, there is no difference, or a tensor of the
    part does not fit.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from metier.artefacts import Model, Part
from metier.compose import tensors, weights
from metier.compose.weights import Weights
from metier.disk import files_digest
from metier.options import Count, MetierError, Real
from metier.store import Work, replacing

EXAMPLE = {"base": "$other"}
NAME = "compose.delta.extract"
UP, DOWN = ".up", ".down"  # of a tensor's name: [out, rank] and [rank, in]


def make(model: Model, base: Model, *, rank: Count | None = None, work: Work) -> Part:
    """Tensors that did not change are left out. ``notes``: where it comes from, and the part of |Δ|² that was lost."""
    family = tensors.Family(NAME, base, {"the model": model})
    folder = work.folder / "part"
    lost: dict[str, float] = {}
    total: dict[str, float] = {}

    @functools.lru_cache(maxsize=1)  # the two factors of a matrix are written one after the other
    def pieces(name: str) -> dict[str, Tensor]:
        change = _difference(family, name)
        found = factors(change, rank)
        lost[name] = 0.0 if "" in found else weights.squares(change - whole(found))
        total[name] = weights.squares(change)
        bar.advance()
        return found

    moved = [name for name in family.base.names if _moved(family, name)]
    if not moved:
        raise MetierError(f"{NAME}: the model does not differ from the base")
    shapes = {name + end: shape for name in moved for end, shape in _shapes(family.shape(name), rank).items()}
    with work.progress("taking the difference", len(moved)) as bar, replacing(folder) as fresh:
        dtypes = dict.fromkeys(shapes, torch.float32)
        weights.write(fresh, shapes, dtypes, lambda name: pieces(_place(name))[_end(name)])
    share = sum(lost.values()) / sum(total.values())
    work.log(event="extract", tensors=len(moved), lost=share)
    notes = {"model": model.digest, "base": base.digest, "rank": rank, "lost": share}
    return Part(folder, NAME, files_digest(folder), notes | tensors.parents(base, {"the model": model}))


def apply(model: Model, part: Part, *, scale: Real = 1.0, work: Work) -> Model:
    """The model with ``scale`` times the difference added, in its own precision."""
    held = weights.File(sorted(part.path.glob("*.safetensors")))
    below = Weights(model)
    _refuse_misfits(below, held)

    def moved(name: str) -> Tensor:
        tensor = below[name]
        pieces = {end: held[name + end] for end in ("", UP, DOWN) if name + end in held.files}
        bar.advance()
        if not pieces or scale == 0:
            return tensor
        changed = torch.empty_like(tensor)
        for out, before, change in weights.chunks(changed, tensor, whole(pieces)):
            out.copy_(before.double().add_(change.double(), alpha=scale))
        return changed

    with work.progress("adding the difference", len(below.names)) as bar, replacing(work.folder / "model") as folder:
        tensors.write(folder, below, below, moved)
    skill = {"part": part.digest, "method": part.method, "scale": scale, "licence": part.notes.get("licence")}
    known = {tensors.licence(model), skill["licence"]}
    joint = {} if None in known else {"licence": " AND ".join(sorted(map(str, known)))}
    place = work.folder / "model"
    return dataclasses.replace(
        Model(place, files_digest(place), head=model.head, source=model.source),
        notes={"method": NAME, "parents": {"base": {"source": model.source, "digest": model.digest}, "delta": skill}}
        | joint,
    )


def factors(change: Tensor, rank: int | None) -> dict[str, Tensor]:
    """{"": Δ}, or {".up": U√S, ".down": √S Vᵀ} where a product of that rank is smaller."""
    if list(_shapes(tuple(change.shape), rank)) == [""]:
        return {"": change}
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    return {UP: u[:, :rank] * root, DOWN: root[:, None] * v[:rank]}


def whole(pieces: dict[str, Tensor]) -> Tensor:
    return pieces[""] if "" in pieces else pieces[UP] @ pieces[DOWN]


def _shapes(shape: tuple[int, ...], rank: int | None) -> dict[str, tuple[int, ...]]:
    """Of what is kept of a tensor: itself, or two factors where they are smaller."""
    if rank is None or len(shape) != 2 or rank * sum(shape) >= shape[0] * shape[1]:
        return {"": shape}
    return {UP: (shape[0], rank), DOWN: (rank, shape[1])}


def _end(name: str) -> str:
    return next((end for end in (UP, DOWN) if name.endswith(end)), "")


def _place(name: str) -> str:
    """The tensor of the model that a tensor of the part belongs to."""
    return name.removesuffix(_end(name))


def _moved(family: tensors.Family, name: str) -> bool:
    base, experts = family.read(name)
    return not torch.equal(base, experts["the model"])


def _difference(family: tensors.Family, name: str) -> Tensor:
    base, experts = family.read(name)
    if not base.is_floating_point():
        raise MetierError(f"{NAME}: '{name}' holds whole numbers that differ")
    change = torch.empty(base.shape, dtype=torch.float32)
    for out, after, before in weights.chunks(change, experts["the model"], base):
        out.copy_(after.double() - before.double())
    return change


def _refuse_misfits(below: Weights, held: weights.File) -> None:
    for name in held.files:
        place, shape = _place(name), held.shapes[name]
        if place != name:
            shape = (held.shapes[place + UP][0], held.shapes[place + DOWN][1])
        if below.shapes.get(place) != shape:
            there = " × ".join(map(str, below.shapes[place])) if place in below.shapes else "missing"
            raise MetierError(
                f"{NAME}: '{place}' is {' × '.join(map(str, shape))} in the part and {there} in the model"
            )
