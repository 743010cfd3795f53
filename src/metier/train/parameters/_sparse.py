"""Matrices that stay as they are, with changes at a few places beside them; and the choice of other places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from metier.lm.loss import decoder
from metier.options import MetierError

Watch = Callable[[Tensor], None]


class SparseLinear(nn.Linear):
    """y = x (W + Δ)ᵀ + b, Δ zero but for ``values`` at ``indices``; W and b are those of the layer, and frozen.

    ``indices`` int32 [k] count through W [out, in] row by row. ``watch``, when there is one, is shown ∂L/∂W [out, in]
    of every backward pass.
    """

    indices: Tensor

    def __init__(self, layer: nn.Linear, indices: Tensor) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("indices", indices.to(layer.weight.device, torch.int32))
        self.values = nn.Parameter(torch.zeros(len(indices), device=layer.weight.device))
        self.watch: Watch | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        found: Tensor = _Product.apply(x, self.weight, self.bias, self.values, self.indices, self.watch)
        return found


class _Product(torch.autograd.Function):
    """Keeps x for the backward pass, and no second copy of the matrix."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, indices: Tensor, watch: Watch | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, values, indices)
        ctx.watch = watch
        return linear(x, changed(weight, values, indices).to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None, None]:
        x, weight, values, indices = ctx.saved_tensors
        d_x = g @ changed(weight, values, indices).to(g.dtype) if ctx.needs_input_grad[0] else None
        d_values = None
        if ctx.needs_input_grad[3]:
            d_weight = g.reshape(-1, g.shape[-1]).t() @ x.reshape(-1, x.shape[-1])  # [out, in], gone after this call
            d_values = d_weight.view(-1).index_select(0, indices).to(values.dtype)
            if ctx.watch is not None:
                ctx.watch(d_weight)
        return d_x, None, None, d_values, None, None


def changed(weight: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """W + Δ, a new matrix."""
    found = weight.detach().clone()
    found.view(-1).index_add_(0, indices, values.detach().to(weight.dtype))
    return found


def attach(owner: str, network: nn.Module, density: float, targets: Sequence[str] | None) -> dict[str, SparseLinear]:
    """Puts changes of 0 at random places on the matrices called ``targets`` (None: all below the head), by name.

    Raises MetierError when a matrix would get no place, or there is no matrix.
    """
    below = set(decoder(network).modules())
    layers = {n: m for n, m in network.named_modules() if type(m) is nn.Linear and m in below}
    chosen = {n: m for n, m in layers.items() if targets is None or n.rpartition(".")[2] in targets}
    if not chosen:
        raise MetierError(f"{owner}: the model has no linear layer that could carry changes")
    smallest = min(chosen, key=lambda n: chosen[n].weight.numel())
    if int(density * chosen[smallest].weight.numel()) < 1:
        rows, columns = chosen[smallest].weight.shape
        raise MetierError(f"{owner}: 'density' {density:g} gives {smallest} [{rows}, {columns}] not one entry;"
                          f" the least is {1 / (rows * columns):.2g}")  # fmt: skip
    made = {}
    for name, layer in chosen.items():
        size = layer.weight.numel()
        made[name] = SparseLinear(layer, _drawn(size, int(density * size)))
        _put(network, name, made[name])
    return made


@contextmanager
def folded(network: nn.Module, matrices: dict[str, SparseLinear]) -> Iterator[None]:
    """Meanwhile plain layers hold the changes; afterwards the matrices are as they were, bit for bit."""
    kept = {n: m.weight.detach().view(-1).index_select(0, m.indices) for n, m in matrices.items()}
    for name, matrix in matrices.items():
        plain = nn.Linear(matrix.in_features, matrix.out_features, matrix.bias is not None, device="meta")
        plain.weight, plain.bias = matrix.weight, matrix.bias
        _put(network, name, plain)
        matrix.weight.data.view(-1).index_add_(0, matrix.indices, matrix.values.detach().to(matrix.weight.dtype))
    try:
        yield
    finally:
        for name, matrix in matrices.items():
            matrix.weight.data.view(-1).index_copy_(0, matrix.indices.long(), kept[name])
            _put(network, name, matrix)


class Candidates:
    """Places of one matrix where its gradient was largest, and what it has been there since.

    ``places`` int32 [n], n ≤ k; ``now`` [n] is the gradient of the step under way, ``total`` and ``squares`` [n] are
    the sums over the steps before it. ``batches`` micro-batches may still propose places.
    """

    def __init__(self, matrix: SparseLinear, batches: int) -> None:
        self.count, self.batches = len(matrix.values), batches
        self.places = matrix.indices[:0]
        self.now = self.total = self.squares = matrix.values.detach()[:0]

    def see(self, gradient: Tensor) -> None:
        """∂L/∂W [out, in] of a micro-batch."""
        flat = gradient.detach().reshape(-1)
        if self.batches > 0:
            self.batches -= 1
            top = flat.abs().topk(self.count).indices.int()
            new = top[~torch.isin(top, self.places)]
            self.places = torch.cat([self.places, new])
            zeros = self.now.new_zeros(len(new))
            self.now, self.total, self.squares = (torch.cat([t, zeros]) for t in (self.now, self.total, self.squares))
        self.now = self.now + flat.index_select(0, self.places)
        if len(self.places) > self.count:
            best = (self.total + self.now).abs().topk(self.count).indices
            self.places, self.now = self.places[best], self.now[best]
            self.total, self.squares = self.total[best], self.squares[best]

    def end_step(self) -> None:
        self.total, self.squares = self.total + self.now, self.squares + self.now.square()
        self.now = torch.zeros_like(self.now)

    def state(self) -> dict[str, Tensor]:
        """Between two steps."""
        return {"places": self.places, "total": self.total, "squares": self.squares}

    def load(self, state: dict[str, Tensor]) -> None:
        self.places, self.total, self.squares = (
            state[name].to(self.places.device) for name in ("places", "total", "squares")
        )
        self.now = torch.zeros_like(self.total)


@torch.no_grad()
def exchange(matrix: SparseLinear, share: float, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Gives up to ⌊share · k⌋ places to others: the smallest changes go, the first of ``grown`` come at 0.

    ``grown`` int32, the best first; places that stay are passed over, and one that would both go and come is left
    untouched. Returns where in ``values`` there is now a new place [n], and which of ``grown`` it is [n].
    """
    most = int(share * len(matrix.values))
    going = matrix.values.abs().argsort(stable=True)[:most]
    leaving = matrix.indices[going]
    staying = torch.ones_like(matrix.indices, dtype=torch.bool)
    staying[going] = False
    free = (~torch.isin(grown, matrix.indices[staying])).nonzero()[:, 0][:most]
    coming = free[~torch.isin(grown[free], leaving)]
    at = going[~torch.isin(leaving, grown[free])][: len(coming)]
    matrix.indices[at] = grown[coming]
    matrix.values[at] = 0.0
    return at, coming


def _drawn(size: int, count: int) -> Tensor:
    """``count`` of ``size`` places, sorted; a permutation of a large matrix would take longer than a step."""
    found = torch.randperm(size) if 4 * count > size else torch.zeros(0, dtype=torch.long)
    while len(found) < count:
        found = torch.cat([found, torch.randint(size, (count,))]).unique()
    return found[torch.randperm(len(found))[:count]].sort().values


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
