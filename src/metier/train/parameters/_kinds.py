"""The adapters of peft that can be named, and what each calls our options."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import peft

Default = Any  # a value; a function of the rank; or None: the largest block that fits the matrices


@dataclasses.dataclass(frozen=True)
class Kind:
    """peft's config class; our options as (its field, our default); settings that are no option."""

    config: type[peft.PeftConfig]
    options: Mapping[str, tuple[str, Default]]
    fixed: Mapping[str, Any]

    @functools.cached_property
    def takes(self) -> list[str]:
        """Names of the options: its own, and those its config class has a field for."""
        fields = {f.name for f in dataclasses.fields(self.config)}
        shared = {"targets": "target_modules", "last": "layers_to_transform"}
        return [*self.options, *(name for name, field in shared.items() if field in fields)]


def _kind(
    config: type[peft.PeftConfig], fixed: Mapping[str, Any] | None = None, **options: tuple[str, Default]
) -> Kind:
    return Kind(config, options, fixed or {})


def _times(scale: float) -> Callable[[int], float]:
    return lambda rank: scale * rank


def _root(rank: int) -> float:
    """rsLoRA divides by the root of the rank; this keeps plain LoRA's factor of 2."""
    return 2 * math.sqrt(rank)


def _lora(alpha: Callable[[int], float], *, rslora: bool = False, dora: bool = False) -> Kind:
    fixed = {"use_rslora": rslora, "use_dora": dora}
    return _kind(peft.LoraConfig, fixed, rank=("r", 16), alpha=("lora_alpha", alpha), dropout=("lora_dropout", 0.0))


KINDS: dict[str, Kind] = {
    "lora": _lora(_times(2)),
    "rslora": _lora(_root, rslora=True),
    "dora": _lora(_times(2), dora=True),
    "gralora": _kind(peft.GraloraConfig, rank=("r", 16), alpha=("alpha", _times(2)), dropout=("gralora_dropout", 0.0)),
    "delora": _kind(peft.DeloraConfig, rank=("r", 16), alpha=("delora_lambda", 15), dropout=("module_dropout", 0.0)),
    "hira": _kind(peft.HiraConfig, rank=("r", 32), dropout=("hira_dropout", 0.0)),
    "glora": _kind(peft.GloraConfig, rank=("r", 8)),
    "peanut": _kind(peft.PeanutConfig, rank=("r", 32)),
    "psoft": _kind(peft.PsoftConfig, rank=("r", 32), alpha=("psoft_alpha", _times(1)), dropout=("psoft_dropout", 0.0)),
    "randlora": _kind(
        peft.RandLoraConfig, rank=("r", 32), alpha=("randlora_alpha", _times(20)), dropout=("randlora_dropout", 0.0)
    ),
    "vera": _kind(peft.VeraConfig, rank=("r", 256), dropout=("vera_dropout", 0.0)),
    "tinylora": _kind(peft.TinyLoraConfig, rank=("r", 2), dropout=("tinylora_dropout", 0.0)),
    "loha": _kind(peft.LoHaConfig, rank=("r", 8), alpha=("alpha", _times(1)), dropout=("rank_dropout", 0.0)),
    "lokr": _kind(peft.LoKrConfig, rank=("r", 8), alpha=("alpha", _times(1)), dropout=("rank_dropout", 0.0)),
    "miss": _kind(peft.MissConfig, rank=("r", 64), dropout=("miss_dropout", 0.0)),
    "c3a": _kind(peft.C3AConfig, {"init_weights": True}, block=("block_size", None)),
    "vblora": _kind(peft.VBLoRAConfig, rank=("r", 4), block=("vector_length", None), dropout=("vblora_dropout", 0.0)),
    "oft": _kind(peft.OFTConfig, block=("oft_block_size", 32), dropout=("module_dropout", 0.0)),
    "boft": _kind(peft.BOFTConfig, block=("boft_block_size", 4), dropout=("boft_dropout", 0.0)),
    "hra": _kind(peft.HRAConfig, rank=("r", 8)),
    "road": _kind(peft.RoadConfig, block=("group_size", None)),
    "fourierft": _kind(
        peft.FourierFTConfig, {"init_weights": True}, frequencies=("n_frequency", 1000), alpha=("scaling", 150.0)
    ),
    "waveft": _kind(peft.WaveFTConfig, frequencies=("n_frequency", 1000), alpha=("scaling", 25.0)),
    "shira": _kind(peft.ShiraConfig, {"random_seed": 0}, rank=("r", 16)),
    "ia3": _kind(peft.IA3Config),
    "norms": _kind(peft.LNTuningConfig),
    "prompt": _kind(peft.PromptTuningConfig, tokens=("num_virtual_tokens", 20)),
    "p-tuning": _kind(peft.PromptEncoderConfig, tokens=("num_virtual_tokens", 20)),
    "prefix": _kind(peft.PrefixTuningConfig, {"init_weights": "zero"}, tokens=("num_virtual_tokens", 20)),
}
