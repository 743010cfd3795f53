"""What the tensors of a language model do, told by their names: attention, feed-forward, norms, embedding, head.

The names are those of transformers' dense architectures (Llama, Qwen, Mistral, Gemma, OLMo, SmolLM, Phi, OPT, GPT-2,
GPT-NeoX, Bloom, BERT). Where queries, keys and values, or gate and up, share one matrix, each is a slice of it.
A bias does what its matrix does, and so do the norms of queries and keys.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from metier.options import MetierError

ATTENTION, FFN, NORM = ("q", "k", "v", "o"), ("gate", "up", "down"), ("norm",)
FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
Level = Literal["category", "layer", "model"]
BLOCK = re.compile(r"^(.*?\b(?:layers|layer|h)\.(\d+))\.(.+)$")
# The longest name that a path ends with decides.
NAMES = {
    "q_proj": "q", "query": "q", "q_norm": "q", "q_layernorm": "q",
    "k_proj": "k", "key": "k", "k_norm": "k", "k_layernorm": "k",
    "v_proj": "v", "value": "v",
    "o_proj": "o", "out_proj": "o", "attn.c_proj": "o", "self_attn.dense": "o", "attention.dense": "o",
    "self_attention.dense": "o", "attention.output.dense": "o",
    "qkv_proj": "qkv", "attn.c_attn": "qkv", "query_key_value": "qkv",
    "gate_proj": "gate", "gate_up_proj": "gate_up",
    "up_proj": "up", "fc1": "up", "mlp.c_fc": "up", "dense_h_to_4h": "up", "intermediate.dense": "up",
    "down_proj": "down", "fc2": "down", "mlp.c_proj": "down", "dense_4h_to_h": "down", "output.dense": "down",
}  # fmt: skip
OUTSIDE = {
    "embed_tokens": "embedding", "embed_positions": "embedding", "embed_in": "embedding", "wte": "embedding",
    "wpe": "embedding", "word_embeddings": "embedding", "position_embeddings": "embedding",
    "token_type_embeddings": "embedding", "lm_head": "head", "score": "head", "classifier": "head",
    "pooler.dense": "head",
}  # fmt: skip
IS_NORM = re.compile(r"norm$|(^|\.)ln_[12f]$", re.IGNORECASE)
TRANSPOSED = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # GPT-2's matrices are [in, out]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a module stands: in which block, if in one, and what it does there (None: nothing we know)."""

    role: str | None
    block: int | None = None
    stem: str = ""  # path of the block


@dataclasses.dataclass(frozen=True)
class Heads:
    """Of attention: ``queries`` heads of ``size`` numbers, in ``groups`` that share keys and values."""

    queries: int
    groups: int
    size: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tensor, or the slice of a fused one that does one thing; ``size`` numbers of it.

    Its outputs lie along ``axis``. ``part`` (groups, start, stop): the outputs of a fused tensor are cut into equal
    groups, and of each it is [start, stop).
    """

    tensor: str
    role: str
    block: int | None
    size: int
    axis: int = 0
    part: tuple[int, int, int] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Its own of the tensor: a view, [groups, stop − start] in the place of the axis where it is a slice."""
        return tensor if self.part is None else _slice(tensor, self.axis, self.part)

    def outputs(self, vector: Tensor) -> Tensor:
        """Its own of a vector that has a number for each output of the tensor: a view."""
        return vector if self.part is None else _slice(vector, 0, self.part)

    @property
    def is_norm(self) -> bool:
        """A norm of queries or keys has their role, but not a number for each of their outputs."""
        return bool(IS_NORM.search(self.tensor.rpartition(".")[0]))

    @property
    def unit(self) -> tuple[int | None, str]:
        """What is drawn together: a matrix with its bias; each norm by itself."""
        return self.block, self.tensor.rpartition(".")[0] if self.role == "norm" else self.role


def placed(path: str) -> Place:
    """What a module of this path does, or the tensor of this name."""
    path = path.removesuffix(".weight").removesuffix(".bias")
    found = BLOCK.match(path)
    inside, names = (found[3], NAMES) if found else (path, OUTSIDE)
    fits = [name for name in names if inside == name or inside.endswith(f".{name}")]
    role = names[max(fits, key=len)] if fits else None
    if role is None and IS_NORM.search(inside):
        role = "norm" if found else "final"
    return Place(role, int(found[2]), found[1]) if found else Place(role)


def roles(owner: str, shapes: Mapping[str, Sequence[int]], heads: Heads | None = None) -> list[Piece]:
    """What each tensor does, in the order given: q, k, v, o, gate, up, down, norm; embedding, head, final.

    *final* are the norms outside the blocks.
    ``heads`` is needed where queries, keys and values alternate in one matrix (GPT-NeoX, Bloom).
    Raises MetierError naming the tensors that do nothing we know.
    """
    places = {name: placed(name) for name in shapes}
    unknown = {re.sub(r"\b\d+\b", "*", name) for name, place in places.items() if place.role is None}
    if unknown:
        raise MetierError(f"{owner}: cannot tell what these tensors of the model do: {', '.join(sorted(unknown))}")
    read = {place.stem: shapes[name] for name, place in places.items() if place.role == "o" and len(shapes[name]) > 1}
    found = []
    for name, place in places.items():
        role, shape = str(place.role), shapes[name]
        axis = int(len(shape) > 1 and name.removesuffix(".weight").endswith(TRANSPOSED))
        numbers = math.prod(shape)
        if role not in FUSED:
            found.append(Piece(name, role, place.block, numbers, axis))
            continue
        parts = _parts(name, role, shape[axis], read.get(place.stem), axis, heads)
        if parts is None:
            raise MetierError(f"{owner}: cannot tell queries, keys and values apart in '{name}'")
        for one, (groups, start, stop) in zip(FUSED[role], parts, strict=True):
            size = numbers // shape[axis] * groups * (stop - start)
            found.append(Piece(name, one, place.block, size, axis, (groups, start, stop)))
    return found


def heads(config: Any) -> Heads:
    """Of a transformers configuration."""
    text = config.get_text_config()
    queries = text.num_attention_heads
    groups = getattr(text, "num_key_value_heads", None) or queries
    return Heads(queries, groups, getattr(text, "head_dim", None) or text.hidden_size // queries)


def half(pieces: Sequence[Piece], share: float, level: Level, draw: torch.Generator) -> list[Piece]:
    """The pieces of the blocks that are drawn: about ``share`` of them; embedding, head and last norm never are.

    *category*: of attention, of the feed-forward part and of the norms of each block by itself, so that the share holds
    over all blocks; *layer*: whole blocks; *model*: tensors of all blocks until they hold that share of the numbers.
    """
    inside = [piece for piece in pieces if piece.block is not None]
    blocks = sorted({piece.block for piece in inside if piece.block is not None})
    if level == "layer":
        count = max(1, round(len(blocks) * share))
        chosen = {blocks[i] for i in torch.randperm(len(blocks), generator=draw)[:count].tolist()}
        return [piece for piece in inside if piece.block in chosen]
    units = set(_in_categories(inside, share, draw) if level == "category" else _by_size(inside, share, draw))
    return [piece for piece in inside if piece.unit in units]


def _in_categories(pieces: Sequence[Piece], share: float, draw: torch.Generator) -> Iterator[tuple[int | None, str]]:
    """Where the share of a block's tensors is no whole number, as of three, some of the blocks have one more."""
    for category in (ATTENTION, FFN, NORM):
        units: dict[int | None, list[tuple[int | None, str]]] = {}
        for piece in (p for p in pieces if p.role in category):
            known = units.setdefault(piece.block, [])
            if piece.unit not in known:
                known.append(piece.unit)
        exact = {block: round(len(known) * share, 6) for block, known in units.items()}
        order = [list(units)[i] for i in torch.randperm(len(units), generator=draw).tolist()]
        more = set(order[: int(sum(count - int(count) for count in exact.values()) + 1e-6)])
        for block, known in units.items():
            count = int(exact[block]) + (block in more)
            yield from (known[i] for i in torch.randperm(len(known), generator=draw)[:count].tolist())


def _by_size(pieces: Sequence[Piece], share: float, draw: torch.Generator) -> Iterator[tuple[int | None, str]]:
    sizes: dict[tuple[int | None, str], int] = {}
    for piece in pieces:
        sizes[piece.unit] = sizes.get(piece.unit, 0) + piece.size
    left_out, most = 0, (1 - share) * sum(sizes.values())
    for i in torch.randperm(len(sizes), generator=draw).tolist():
        unit = list(sizes)[i]
        if left_out < most:
            left_out += sizes[unit]
        else:
            yield unit


def _parts(
    name: str, role: str, size: int, read: Sequence[int] | None, axis: int, heads: Heads | None
) -> list[tuple[int, int, int]] | None:
    """(groups, start, stop) of each role in a fused tensor of ``size`` outputs; None where it cannot be told.

    ``read``: the shape of the matrix that reads what attention gives, and so knows how many numbers the queries are.
    """
    if role == "gate_up":
        widths, groups = [size // 2, size // 2], 1
    elif "query_key_value" in name:  # for each group: its queries, its key, its value
        if heads is None:
            return None
        widths, groups = [heads.queries // heads.groups * heads.size, heads.size, heads.size], heads.groups
    elif read is None:
        return None
    else:
        queries = read[0 if "c_attn" in name else 1]
        widths, groups = [queries, (size - queries) // 2, (size - queries) // 2], 1
    if groups * sum(widths) != size or min(widths) <= 0 or ("c_attn" in name and len(set(widths)) > 1):
        return None
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    return [(groups, end - width, end) for end, width in zip(ends, widths, strict=True)]


def _slice(tensor: Tensor, axis: int, part: tuple[int, int, int]) -> Tensor:
    groups, start, stop = part
    return tensor.unflatten(axis, (groups, -1)).narrow(axis + 1, start, stop - start)
