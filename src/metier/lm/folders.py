"""What a folder must hold to be a model, found out before any weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.models.auto import configuration_auto, modeling_auto

from metier.lm import bottleneck, heads
from metier.lm.loss import CLASSIFIERS
from metier.options import MetierError

ADAPTERS = {"adapter_config.json": "adapter_model.safetensors", bottleneck.FILE: bottleneck.WEIGHTS}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def is_adapter(folder: Path) -> bool:
    """Whether it sits on another model: an adapter of peft, or bottlenecks."""
    return any((folder / name).exists() for name in ADAPTERS)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZERS)


def base_of(folder: Path, path: str) -> str:
    """The name of the model an adapter sits on: beside the adapter, where it was trained, or what its report names."""
    name = next(name for name in ADAPTERS if (folder / name).exists())
    config = _json(folder / name, path)
    if not (folder / ADAPTERS[name]).exists():
        raise MetierError(f"model: '{path}' holds an adapter without safetensors weights (pickle files are not loaded)")
    named = config.get("base_model_name_or_path")
    if not named:
        raise MetierError(f"model: '{path}' does not say which model its adapter sits on")
    if (folder / named).is_dir():
        return str(folder / named)
    if not Path(named).is_absolute() or Path(named).is_dir():
        return str(named)
    if (folder / "report.json").exists():  # a folder of ours whose base has left the cache
        return str(_json(folder / "report.json", path)["model"]["name"])
    raise MetierError(f"model: '{path}' is an adapter of '{named}', which is not there")


def adapter_head(folder: Path, path: str) -> Literal["text", "labels"]:
    _whole(folder, path)
    if bottleneck.lies_in(folder):
        return "labels" if (folder / heads.LABELS).exists() else "text"
    if _json(folder / "adapter_config.json", path).get("task_type") != "SEQ_CLS":
        return "text"
    if not (folder / heads.LABELS).exists():
        raise MetierError(f"model: '{path}' is an adapter of a classifier and does not name its labels: "
                          f"write them into {heads.LABELS}, a JSON list in the order of the classes")  # fmt: skip
    return "labels"


def head(folder: Path, path: str) -> Literal["text", "labels"]:
    """The head of the model in a folder. Raises MetierError when it cannot be used."""
    if not (folder / "config.json").exists():
        raise MetierError(f"model: '{path}' holds no config.json, so it is no transformers model")
    if not list(folder.glob("*.safetensors")):
        pickles = [p for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        only = " (pickle files are not loaded)" if pickles else ""
        raise MetierError(f"model: '{path}' holds no safetensors weights{only}")
    if not has_tokenizer(folder):
        raise MetierError(f"model: '{path}' holds no tokenizer")
    kind = _json(folder / "config.json", path).get("model_type")
    if kind not in configuration_auto.CONFIG_MAPPING:
        raise MetierError(f"model: '{path}' is of the type '{kind}', which transformers does not know by itself")
    _whole(folder, path)
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # every architecture checks its values in its own way
        raise MetierError(f"model: '{path}': config.json: {_first_line(error)}") from None
    named = set(config.architectures or [])
    if named & CLASSIFIERS:
        if config.num_labels < 2 or config.problem_type == "multi_label_classification":
            raise MetierError(f"model: '{path}' is {' '.join(named)}, which does not give one of two labels or more")
        return "labels"
    generating = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if type(config) not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING or (named and not generating & named):
        raise MetierError(f"model: '{path}' is {' '.join(named) or kind}, which does not write text")
    return "text"


def tokenizer_fault(folder: Path, path: str, error: Exception) -> MetierError:
    """Why a tokenizer could not be opened: the file that is broken, or else what its library says."""
    for file in sorted(folder.glob("*.json")):
        try:
            _json(file, path)
        except MetierError as broken:
            return broken
    return MetierError(f"model: '{path}': its tokenizer cannot be opened: {_first_line(error)}")


def _whole(folder: Path, path: str) -> None:
    """Every weights file has all its bytes, and every one the index names is there: a torn copy is found at once."""
    index = folder / "model.safetensors.index.json"
    named = set(_json(index, path).get("weight_map", {}).values()) if index.exists() else set()
    for name in sorted(named | {p.name for p in folder.glob("*.safetensors")}):
        if not (folder / name).exists():
            raise MetierError(f"model: '{path}' lacks {name}, which its index names")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise MetierError(f"model: '{path}': {name} is torn or no safetensors file: {error}") from None


def _json(file: Path, path: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MetierError(f"model: '{path}': {file.name} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise MetierError(f"model: '{path}': {file.name} is no map of names to values")
    return dict(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
