"""``python benchmarks/cuda.py --model FOLDER``: training, loss and replies on a GPU; prints rows as JSON.

The folder holds config and tokenizer of a transformers model. Without weights it gets random ones from a seed: speed
and memory do not ask what a weight is. Needs metier on the path (``PYTHONPATH=src``) and nothing from the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# In place of this folder, where others would find this file when they ask for their package `cuda`.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks import training
from benchmarks.harness import Row, interleaved, machine, ratio
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from metier.lm import load
from metier.lm.chat import Sampling
from metier.lm.loss import token_loss
from metier.store import Work

NEAR = 0.02  # nats a token, in bf16
POSITIONS, WIDTH, VOCABULARY = 8192, 576, 49152  # of the loss alone, at SmolLM2-135M's head
REPLIED = {"cuda": 64, "cpu": 4}  # tokens of a reply
# Steps a round, chats a step, packed rows a step, their length, rows of the other loop's micro-batches.
SIZES = {"cuda": (4, 128, 64, 512, 32), "cpu": (2, 4, 2, 32, 2)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--device", choices=SIZES, default="cuda", help="cpu: only to try the script")
    given = arguments.parse_args()
    if (given.device == "cuda") != torch.cuda.is_available():
        raise SystemExit(f"cuda: --device {given.device}, but there is {'a' if given.device == 'cpu' else 'no'} GPU")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = with_weights(given.model, place / "model")
        alone = losses(given.device) if given.device == "cuda" else ()
        for found in itertools.chain(trained(model, place, given.device), alone, replies(model, place, given.device)):
            print(json.dumps(dataclasses.asdict(found), ensure_ascii=False), flush=True)


def with_weights(folder: Path, place: Path) -> Path:
    if list(folder.glob("*.safetensors")):
        return folder
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def trained(model: Path, place: Path, device: str) -> Iterator[Row]:
    """Steps of metier and of a loop of one's own, both in bf16 over float32 weights."""
    steps, chats, packed, length, micro_rows = SIZES[device]
    pairs = 3
    pool = training.chats(steps * chats * (pairs + 1))
    text = training.packed(AutoTokenizer.from_pretrained(model), steps * packed * (pairs + 1), length)
    for work, base, rows, size in (
        ("SFT on ragged chats, LoRA, bf16", training.LORA, pool, chats),
        ("pre-training, full, bf16", training.FULL, text, packed),
    ):
        file = training.write(place / "rows.jsonl", zip(*[iter(rows)] * (steps * size), strict=True))
        given = base | {"model": str(model), "data": str(file), "steps": steps, "precision": "bf16",
                        "micro_rows": micro_rows, "micro_tokens": None}  # fmt: skip
        sides = training.side("ours", given), training.side("raw", given)
        found = interleaved(*sides, pairs, functools.partial(training.agree, NEAR))
        yield row(work, "loop over transformers", found, "rate", "supervised tokens a second",
                  f"micro-batches as metier sets them against {micro_rows} rows")  # fmt: skip


def losses(device: str) -> Iterator[Row]:
    """Forward and backward of the head's loss alone, against a table of all logits: time and peak memory."""
    torch.manual_seed(0)
    labels = torch.randint(VOCABULARY, (POSITIONS,), device=device)

    def measured(loss: Callable[[Tensor, Tensor], Tensor], trains: bool) -> dict[str, float]:
        hidden = torch.randn(POSITIONS, WIDTH, device=device, dtype=torch.bfloat16, requires_grad=True)
        head = torch.randn(VOCABULARY, WIDTH, device=device, dtype=torch.bfloat16, requires_grad=trains)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held, begun = torch.cuda.memory_allocated(), time.perf_counter()
        loss(hidden, head).backward()
        torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - begun, "bytes": torch.cuda.max_memory_allocated() - held}

    ways: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        lambda hidden, head: token_loss(hidden, head, labels),
        lambda hidden, head: cross_entropy((hidden @ head.t()).float(), labels, reduction="sum"),
    )
    for trains in (False, True):
        found = [tuple(measured(way, trains) for way in ways) for _ in range(4)][1:]
        for key in ("seconds", "bytes"):
            work = f"loss of {POSITIONS} tokens, bf16, head {'trained' if trains else 'frozen'}, {key}"
            yield row(work, "cross entropy of all logits", found, key, key, "")


def replies(model: Path, place: Path, device: str) -> Iterator[Row]:
    chat = load.open(load.resolve(str(model), Work(place)))
    asked = [record["messages"][:1] for record in training.chats(64)]

    def rate(conversations: list[Any]) -> dict[str, float]:
        begun = time.perf_counter()
        given = chat.reply(conversations, Sampling(max_tokens=REPLIED[device]))
        return {"rate": sum(reply.tokens for reply in given) / (time.perf_counter() - begun)}

    found = [(rate(asked[n : n + 16]), rate(asked[n : n + 1])) for n in range(0, len(asked), 16)][1:]
    yield row("replies, 16 at once", "1 at a time", found, "rate", "tokens a second", "float32")


def row(work: str, against: str, pairs: list[Any], key: str, unit: str, note: str) -> Row:
    ours, theirs = (statistics.median(side[key] for side in sides) for sides in zip(*pairs, strict=True))
    note = "; ".join(filter(None, [f"{ours:.4g} against {theirs:.4g}", note]))
    return Row(work, against, *ratio(pairs, key), "", f"ours / theirs, {unit}", len(pairs), machine(), note)


if __name__ == "__main__":
    main()
