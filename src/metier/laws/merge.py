"""Laws of merges: experts that learnt nothing change nothing, their order neither; shapes and dtypes stay."""

from __future__ import annotations

import torch
from torch import Tensor

from metier.compose.tensors import Here
from metier.laws.case import Case

NAME = "model.layers.0.mlp.up_proj.weight"
SHAPES = ((6, 8), (8,))


def experts_equal_to_the_base_give_the_base(case: Case) -> None:
    for shape in SHAPES:
        base = _drawn(shape, 0)
        merged = _merge(case, base, {name: base.clone() for name in ("one", "two", "three")})
        assert torch.equal(merged, base), f"differs by {float((merged - base).abs().max())}"


def the_order_of_experts_changes_nothing(case: Case) -> None:
    for shape in SHAPES:
        base, experts = _family(shape, torch.float32)
        merged = _merge(case, base, experts)
        for names in (("three", "one", "two"), ("two", "three", "one")):
            assert torch.equal(merged, _merge(case, base, {name: experts[name] for name in names}))


def shape_and_dtype_stay(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        for shape in SHAPES:
            merged = _merge(case, *_family(shape, dtype))
            assert merged.shape == shape and merged.dtype == dtype, f"{list(merged.shape)} {merged.dtype}"
            assert torch.isfinite(merged).all()


def tensors_are_not_changed(case: Case) -> None:
    base, experts = _family(SHAPES[0], torch.float32)
    before = {name: tensor.clone() for name, tensor in {"base": base, **experts}.items()}
    _merge(case, base, experts)
    assert all(torch.equal(before[name], tensor) for name, tensor in {"base": base, **experts}.items())


def the_same_seed_gives_the_same(case: Case) -> None:
    base, experts = _family(SHAPES[0], torch.float32)
    assert torch.equal(_merge(case, base, experts), _merge(case, base, experts))


def _merge(case: Case, base: Tensor, experts: dict[str, Tensor]) -> Tensor:
    look = getattr(case.file, "survey", None)
    survey = {NAME: look(base, experts)} if look else {}
    merged: Tensor = case.bound()(base, experts, Here(NAME, 7, survey))
    return merged


def _family(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    base = _drawn(shape, 0).to(dtype)
    return base, {name: base + 0.1 * _drawn(shape, i + 1).to(dtype) for i, name in enumerate(("one", "two", "three"))}


def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
