"""The tensors of a Model one at a time: read by name, an adapter's product added on the way, written as they come.

What is read of a model is float32 (float64 where the file has it), so a bfloat16 model with an adapter is rounded once,
when the result is written. Memory holds the tensor in hand and nothing else of the model.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from metier.artefacts import Model
from metier.disk import write_json
from metier.lm import bottleneck
from metier.options import MetierError

SHARD = 4 << 30  # bytes of a file
CHUNK = 1 << 20  # numbers worked on at once where float64 is needed
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
WHOLE = "model.safetensors"
PREFIX = "base_model.model."  # of the names in a peft folder
# Kinds of LoRA whose change is more than B·A beside a matrix.
BEYOND = (
    "use_dora", "lora_bias", "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora",
    "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others begin by changing the matrix itself


class File:
    """Safetensors files of one folder."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for path in files:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - a file is no dict
                    part = opened.get_slice(name)
                    if part.get_dtype() not in DTYPES:
                        raise MetierError(f"{path}: '{name}' is of the type {part.get_dtype()}; unpack the model first")
                    self.files[name] = path
                    self.shapes[name] = tuple(part.get_shape())
                    self.dtypes[name] = DTYPES[part.get_dtype()]

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.files[name], framework="pt") as opened:
            found: Tensor = opened.get_tensor(name)
        return found  # pages of the file, which are let go of with the tensor


class Weights:
    """The dense tensors of a Model by name, without those that are tied to another one.

    ``shapes`` and ``dtypes`` are those on disk. Raises MetierError for an adapter that is no plain LoRA.
    """

    def __init__(self, model: Model) -> None:
        bottleneck.refuse("model", model)
        self.model = model
        chain = [model]
        while chain[-1].base is not None:
            chain.append(chain[-1].base)
        self.root = chain[-1]
        self.tied = {k: v for k, v in self.skeleton.all_tied_weights_keys.items() if v != k}
        files = File(sorted(self.root.path.glob("*.safetensors")))
        names = sorted(n for n in files.files if n not in self.tied or self.tied[n] not in files.files)
        self.files = files
        self.shapes = {name: files.shapes[name] for name in names}
        self.dtypes = {name: files.dtypes[name] for name in names}
        self.adapters = [_Adapter(link, self) for link in reversed(chain[:-1])]

    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root.path / "config.json").read_text(encoding="utf-8"))
        return found

    @functools.cached_property
    def skeleton(self) -> Any:
        """The network without weights."""
        auto: Any = AutoModelForSequenceClassification if self.root.head == "labels" else AutoModelForCausalLM
        with torch.device("meta"):
            return auto.from_config(AutoConfig.from_pretrained(self.root.path))

    @functools.cached_property
    def by_token(self) -> set[str]:
        """Names of the tensors with a row a token."""
        ends = [self.skeleton.get_input_embeddings(), self.skeleton.get_output_embeddings()]
        rows = {id(p) for end in ends if end is not None for p in end.parameters()}
        return {n for n, p in self.skeleton.named_parameters(remove_duplicate=False) if id(p) in rows}

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.files[name]
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            tensor = tensor.float()
        for adapter in self.adapters:
            tensor = adapter.over(name, tensor)
        return tensor


class _Adapter:
    """A peft folder: what it adds to a tensor."""

    def __init__(self, model: Model, below: Weights) -> None:
        owner = f"model: the adapter '{model.source or model.path}'"
        self.config = _plain(owner, json.loads((model.path / "adapter_config.json").read_text(encoding="utf-8")))
        self.file = File([model.path / "adapter_model.safetensors"])
        self.skeleton = below.skeleton
        self.pairs: dict[str, tuple[str, str]] = {}
        self.replaced: dict[str, str] = {}
        for key in sorted(self.file.files):
            name = key.removeprefix(PREFIX)
            for a, b in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
                if name.endswith(a):
                    self.pairs[name.removesuffix(a) + ".weight"] = (key, key.removesuffix(a) + b)
            if ".lora_" not in name:  # modules_to_save, and the matrix below the adapter of an embedding
                self.replaced[name.replace(".base_layer.", ".")] = key
        for name in [*self.pairs, *self.replaced]:
            if name in below.tied or name in below.tied.values():
                # B·A lies on one of the two only; folded in, it would lie on both.
                raise MetierError(f"{owner} changes '{name}', which input and output share")
            if name not in below.shapes:
                raise MetierError(f"{owner} changes '{name}', which the model below it does not have")

    def over(self, name: str, tensor: Tensor) -> Tensor:
        if name in self.replaced:
            tensor = self.file[self.replaced[name]].to(tensor.dtype)
        if name not in self.pairs:
            return tensor
        a, b = (self.file[key].float() for key in self.pairs[name])  # [rank, in], [out, rank]
        module = name.removesuffix(".weight")
        change = (b @ a) * self.scale(module, len(a))
        # An embedding and GPT-2's matrices have their rows where others have columns.
        flipped = isinstance(self.skeleton.get_submodule(module), Conv1D | nn.Embedding)
        return tensor + (change.t() if flipped else change)

    def scale(self, module: str, rank: int) -> float:
        patterns = self.config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(list(patterns), module), self.config["lora_alpha"])
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of all, one after the other: float64 copies of whole tensors would be most of the memory."""
    return zip(*(tensor.reshape(-1).split(CHUNK) for tensor in tensors), strict=True)


def squares(tensor: Tensor) -> float:
    """Σ x², in float64."""
    return sum(float(part.double().square().sum()) for (part,) in chunks(tensor))


def write(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype],
    make: Callable[[str], Tensor],
) -> None:  # fmt: skip
    """Safetensors files of at most ``SHARD`` bytes (a larger tensor stands alone), and their index if there are more.

    ``make`` gives the tensors by name, one after the other, sorted; each is cast and let go of. Tensors that come one
    at a time are what the library's own writer can't do: it wants a whole file in memory.
    """
    sizes = {name: math.prod(shapes[name]) * dtypes[name].itemsize for name in shapes}
    shards: list[list[str]] = []
    for name in sorted(shapes):
        if not shards or sum(sizes[n] for n in shards[-1]) + sizes[name] > SHARD:
            shards.append([])
        shards[-1].append(name)
    one = len(shards) == 1
    files = [WHOLE if one else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        _write(folder / file, names, shapes, dtypes, sizes, make)
    if not one:
        index = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        facts = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        write_json(folder / f"{WHOLE}.index.json", facts)


def _write(
    path: Path, names: list[str], shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype],
    sizes: Mapping[str, int], make: Callable[[str], Tensor],
) -> None:  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    # Larger items first, so that every tensor begins at a multiple of its item size.
    names = sorted(names, key=lambda n: (-dtypes[n].itemsize, n))
    for name in names:
        header[name] = {"dtype": CODES[dtypes[name]], "shape": list(shapes[name]),
                        "data_offsets": [at, at + sizes[name]]}  # fmt: skip
        at += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = make(name).to(dtypes[name]).contiguous()
            assert tuple(tensor.shape) == shapes[name], name
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _plain(owner: str, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of an adapter. Raises MetierError unless it is B·A beside a matrix and nothing else."""
    kind = str(config.get("peft_type"))
    other = [key for key in BEYOND if config.get(key)]
    if config.get("bias", "none") != "none":
        other.append("bias")
    if config.get("init_lora_weights", True) not in STARTS:
        other.append(f"init_lora_weights: {config['init_lora_weights']}")
    if kind != "LORA" or other:
        what = f"of the kind {kind}" if kind != "LORA" else f"a LoRA with {other[0]}"
        raise MetierError(f"{owner} is {what}, not a plain LoRA; export it with 'merge: true' first")
    return config
