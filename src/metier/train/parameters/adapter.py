"""Any adapter of peft by name: other ways to change a model with few numbers.

For comparing adapters, or when LoRA is not small or gentle enough. `lora` is the default for good reason: the most
tried, and among the fastest. All are saved as plain peft folders and, but for *p-tuning*, can be trained further; all
but the words in front (*prompt*, *p-tuning*, *prefix*) are folded into the weights when the model is opened.

    products of thin matrices   lora, rslora, dora, gralora, delora, hira, glora, peanut, psoft, randlora, vera
    products of other shapes    loha, lokr, miss, c3a, vblora, tinylora
    rotations                   oft, boft, hra, road
    few numbers of a transform  fourierft, waveft, shira
    scales of activations       ia3, norms
    words in front of the text  prompt, p-tuning, prefix

Options:
    kind: the adapter; lora is plain LoRA, as *train.parameters.lora* has it.
    rank: size of the thin matrices; each kind has its own default.
    alpha: strength of the adapter beside the weights.
    dropout: share of the adapter's inputs (of its parts, for some kinds) dropped in training.
    targets: names of the matrices; every one but the output head when not given, or what the paper names (*ia3*:
        keys, values and the last matrix of a block; *norms*: all norms).
    last: only in the last so many blocks, or the last *half*.
    block: size of the blocks a matrix is cut into.
    frequencies: numbers learnt a matrix.
    tokens: virtual tokens in front of the text.
Raises: MetierError for an option the kind does not take, a size that does not fit the model, or a model that carries
    another adapter.
Differs: alpha follows the rank, so a larger rank needs no other learning rate. FourierFT and C3A begin at zero, not at
    noise, so that training begins at the model; with words in front of the text it cannot, and VBLoRA's bank of
    vectors begins at small noise. Left out are adapters that rewrite the base (pissa, osf), prune inside
    a loop of their own (adalora, adamss), mix other adapters (xlora, poly), or cannot be folded in (lily).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from peft import LoraConfig, PeftConfig, PeftModel
from torch import nn

from metier.lm.loss import decoder
from metier.options import Count, MetierError, Positive, unknown
from metier.train.parameters import _peft
from metier.train.parameters._kinds import KINDS
from metier.train.parameters.lora import Dropout
from metier.train.setup import Network, Trainable

NAME = "train.parameters.adapter"
EXAMPLE = {"kind": "dora", "rank": 4}
Name = Literal[
    "lora", "rslora", "dora", "gralora", "delora", "hira", "glora", "peanut", "psoft", "randlora", "vera", "tinylora",
    "loha", "lokr", "miss", "c3a", "vblora", "oft", "boft", "hra", "road", "fourierft", "waveft", "shira", "ia3",
    "norms", "prompt", "p-tuning", "prefix",
]  # fmt: skip


def prepare(
    network: Network, *, kind: Name, rank: Count | None = None, alpha: Positive | None = None,
    dropout: Dropout | None = None, targets: list[str] | None = None, last: Count | Literal["half"] | None = None,
    block: Count | None = None, frequencies: Count | None = None, tokens: Count | None = None,
) -> Trainable:  # fmt: skip
    """Attaches the adapter, or goes on with the one the model carries if it is the same."""
    given = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets, "last": last, "block": block,
             "frequencies": frequencies, "tokens": tokens}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in KINDS[kind].takes:
            raise unknown(f"{NAME}: '{kind}'", name, KINDS[kind].takes)
    module: Any = network.module
    if isinstance(module, PeftModel):
        return _carry_on(network, module, kind, given)
    return _peft.attach(NAME, network, _config(module, kind, given))


def _config(module: Any, kind: str, given: Mapping[str, Any]) -> PeftConfig:
    fields: dict[str, Any] = dict(KINDS[kind].fixed)
    targets = given.get("targets")
    if "targets" in KINDS[kind].takes:
        _peft.check_targets(NAME, module, targets, (nn.Module,) if kind == "norms" else (nn.Linear, nn.Embedding))
        fields["target_modules"] = targets
        if targets is None and kind not in ("ia3", "norms"):  # peft knows what their papers name
            fields["target_modules"] = _peft.linear_names(module)
        if targets is not None and kind == "ia3":
            fields["feedforward_modules"] = []
    if "last" in given:
        fields["layers_to_transform"] = _peft.last_blocks(NAME, module, given["last"])
    for name, (field, default) in KINDS[kind].options.items():
        value = given.get(name, default)
        fields[field] = value(fields["r"]) if callable(value) else value
        if name == "block" and value is None:
            fields[field] = _common_size(module, fields["target_modules"])
    return KINDS[kind].config(**fields)


def _common_size(module: Any, names: list[str]) -> int:
    """The largest number that divides the sizes of all chosen matrices, up to 256."""
    matrices = [m for n, m in decoder(module).named_modules() if n.rpartition(".")[2] in names]
    size = math.gcd(*(s for m in matrices for s in (m.in_features, m.out_features)))
    return max(d for d in range(1, min(size, 256) + 1) if size % d == 0)


def _carry_on(network: Network, module: PeftModel, kind: str, given: Mapping[str, Any]) -> Trainable:
    carried, wanted = module.active_peft_config, KINDS[kind]
    if type(carried) is not wanted.config or any(getattr(carried, f) != v for f, v in wanted.fixed.items()):
        raise MetierError(
            f"{NAME}: the model carries a {carried.peft_type.value} adapter, which '{kind}' cannot go on with"
        )
    if kind == "p-tuning":
        raise MetierError(f"{NAME}: 'p-tuning' keeps no encoder in its folder, so it cannot go on with one")
    if "last" in given:
        raise MetierError(f"{NAME}: the model carries an adapter already, so 'last' cannot be chosen again")
    can_drop = isinstance(carried, LoraConfig)
    fields = {name: field for name, (field, _) in wanted.options.items()} | {"targets": "target_modules"}
    asked = {fields[name]: value for name, value in given.items() if name != "dropout" or not can_drop}
    for field, held, value in _peft.differences(carried, asked):
        raise MetierError(f"{NAME}: the model carries an adapter with {field} {held}, got {value}; merge it first")
    return _peft.carry_on(network, given.get("dropout") if can_drop else None)
