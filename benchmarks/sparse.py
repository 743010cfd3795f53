"""How little is kept, and how little moves: optimizer state of SpIEL, trained share of ADEPT, on SmolLM2-135M.

Nothing is timed and no text is trained on: the optimizer takes one step with gradients of zero, after which it keeps
all that it ever will, and its tensors are counted. Counts are exact, so low and high are the ratio itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.harness import Row, machine

from metier.artefacts import Model, Records
from metier.general import data
from metier.lm import load
from metier.store import Work, home
from metier.train.setup import Network, Trainable, method

LOW, HIGH = 0.005, 0.01
UNIT = "ours / theirs, bytes of optimizer state"
PROBE = 1024  # tokens of ADEPT's probe: which blocks are copied changes nothing in how large they are


def rows() -> Iterator[Row]:
    model = load.resolve("smollm2", Work(home() / "models"))
    full = kept(prepared(model, "full"), "adamw")
    for grow, optimizer, bar in (("gradient", "sparse_adamw", "<= 0.02"), ("momentum", "sm3", "<= 0.01")):
        low, high = (kept(prepared(model, "spiel", density=d, grow=grow), optimizer) for d in (LOW, HIGH))
        if grow == "gradient":
            yield _row("SpIEL, optimizer state a unit of density", f"density {HIGH:g} against {LOW:g}",
                       high / HIGH / (low / LOW), "± 0.01", f"{high} against {low} bytes")  # fmt: skip
        yield _row(f"SpIEL growing by {grow}, optimizer state at density {HIGH:g}", "AdamW on all weights", high / full,
                   bar, f"{high} against {full} bytes")  # fmt: skip
    texts = Records.from_rows({"id": row["id"], "text": row["text"]} for row in data.replay())
    probe, other = (texts.where([i % 2 == half for i in range(len(texts))]) for half in (0, 1))
    made = prepared(model, "adept", other, probe=probe, probe_tokens=PROBE)
    tensors = list(made.network.module.parameters())
    moving, whole = (sum(p.numel() for p in tensors if p.requires_grad or every) for every in (False, True))
    yield _row("ADEPT, trained share of the grown model", "all its weights", moving / whole, "<= 0.15",
               f"4 copies: {moving} of {whole} weights", "trained / all weights")  # fmt: skip


def prepared(model: Model, name: str, *inputs: Records, **values: Any) -> Trainable:
    made: Trainable = method("train.parameters", "prepare", name, **values)(
        Network(*load.network(model), model), *inputs
    )
    return made


def kept(made: Trainable, optimizer: str) -> int:
    """Bytes of the tensors an optimizer keeps between steps."""
    taking = method("train.optimizer", "optimizer", optimizer, lr=0.0)(made.groups)
    for group in taking.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    taking.step()
    found = sum(t.nbytes for state in taking.state.values() for t in state.values() if torch.is_tensor(t))
    taking.zero_grad(set_to_none=True)
    del made, taking
    gc.collect()
    return found


def _row(work: str, against: str, ratio: float, bar: str, note: str, unit: str = UNIT) -> Row:
    return Row(work, against, ratio, ratio, ratio, bar, unit, 1, machine(), note)
