"""Training steps of metier against TRL's and against a loop of one's own, on SmolLM2-135M in float32.

A round is one optimizer step of both sides on the same rows, from the same weights; each side cuts the step into
micro-batches in its own way. Loading, tokenising and saving are not timed. The losses of the step are compared in every
round, the first time before anything counts: where they differ, the benchmark ends.

The chats are cut out of general English and as long as people's questions and replies: many short, few long.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.harness import HERE, PAIRS, Round, Row, Side, interleaved, machine, python, ratio
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records
from metier.general import data
from metier.lm import load
from metier.store import Work, home
from metier.train import examples

CHATS = 32  # a step
POOL = 1600  # chats that transformers' sampler by length sorts at once: 50 steps
ASKED, REPLIED = (40, 1.1, 480), (30, 1.0, 300)  # tokens: median, deviation of the logarithm, most
TOKENS_A_WORD, NEAR = 1.35, 1e-4  # NEAR: nats a token
PACKED, LENGTH, MICRO = 8, 256, 8  # packed rows a step and their tokens; rows a micro-batch, TRL's default
LORA = {"kind": "lora", "rank": 16, "alpha": 32, "rate": 2e-4, "steps": 1, "precision": "fp32",
        "micro_rows": MICRO, "micro_tokens": None}  # fmt: skip
FULL = LORA | {"kind": "full", "rate": 1e-5, "micro_tokens": MICRO * LENGTH}
SFT = "SFT on ragged prompt-masked chats, LoRA, supervised tokens/s at equal loss (1e-4)"
EQUAL, UNIT = "equal tokens, full", "ours / theirs, supervised tokens a second"
GROUPED = {"trl": {"train_sampling_strategy": "group_by_length"}}
KEPT = {"trl": {"gradient_checkpointing": False}}
FOUR = {"micro_rows": 4}  # where all activations are kept: those of eight long chats take 17 GB and more
TRL = "as TRL is set, but for bf16: 8 rows a micro-batch, activations computed twice (gradient_checkpointing)"
COMPARED: list[tuple[str, str, str, str, dict[str, Any], str]] = [  # work, peer, bar, data, its settings, note
    (SFT, "TRL 1.16", ">= 2.0", "chats", {}, TRL),
    (SFT, "TRL 1.16, group_by_length", ">= 1.2", "grouped", GROUPED,
     f"{TRL}; the step is micro-batches out of {POOL} chats sorted by length, which hardly need padding"),
    (SFT, "loop over transformers", ">= 1.6", "chats", FOUR, "4 rows a micro-batch, padded to the longest"),
    (SFT, "TRL 1.16, activations kept", "", "chats", KEPT | FOUR, "no gradient_checkpointing, 4 rows a micro-batch"),
    (EQUAL, "loop over transformers", ">= 0.97", "full", {}, f"rows of {LENGTH} tokens, 8 a micro-batch on both sides"),
    (EQUAL, "TRL 1.16", ">= 1.12", "full", {}, f"{TRL}; rows of {LENGTH} tokens"),
    (EQUAL, "TRL 1.16, activations kept", "", "full", KEPT, f"no gradient_checkpointing; rows of {LENGTH} tokens"),
]  # fmt: skip


def rows() -> Iterator[Row]:
    os.environ.pop("OMP_NUM_THREADS", None)  # both sides take every core
    model = load.resolve("smollm2", Work(home() / "models"))
    with tempfile.TemporaryDirectory() as place:
        files = _files(Path(place), load.tokenizer_of(model))
        for work, peer, bar, kind, changed, note in COMPARED:
            given = (FULL if kind == "full" else LORA) | {"model": str(model.path), "data": str(files[kind])} | changed
            theirs = side("trl", given, python("trl")) if "TRL" in peer else side("raw", given)
            pairs = interleaved(side("ours", given), theirs, PAIRS, functools.partial(agree, NEAR))
            yield Row(work, peer, *ratio(pairs, "rate"), bar, UNIT, PAIRS, machine(), note)


def side(name: str, given: dict[str, Any], python: str = sys.executable) -> Side:
    return Side(HERE / "sides" / f"train_{name}.py", json.dumps(given), python=python)


def agree(near: float, ours: Round, theirs: Round) -> None:
    """Ends the benchmark where the first step has another loss on the two sides, by more than ``near``."""
    if ours["supervised"] != theirs["supervised"] or abs(ours["loss"] - theirs["loss"]) > near:
        said = [f"{one['loss']:.5f} nats over {one['supervised']} tokens" for one in (ours, theirs)]
        raise SystemExit(f"training: the loss of the same step differs: ours {said[0]}, theirs {said[1]}")


def write(file: Path, rounds: Iterable[Sequence[dict[str, Any]]]) -> Path:
    """A line a round: its rows."""
    file.write_text("".join(json.dumps(found) + "\n" for found in rounds), encoding="utf-8")
    return file


def chats(count: int) -> list[dict[str, Any]]:
    """Records of a question and its reply."""
    random = np.random.default_rng(0)
    words = [word for row in data.replay() for word in row["text"].split()]

    def some(median: float, deviation: float, most: int) -> str:
        length = int(min(random.lognormal(np.log(median), deviation), most) / TOKENS_A_WORD) + 1
        start = int(random.integers(len(words) - length))
        return " ".join(words[start : start + length])

    roles = (("user", ASKED), ("assistant", REPLIED))
    return [{"id": str(i), "messages": [{"role": role, "content": some(*size)} for role, size in roles]}
            for i in range(count)]  # fmt: skip


def packed(tokenizer: PreTrainedTokenizerBase, count: int, length: int) -> list[dict[str, Any]]:
    """Full rows of token ids; from the beginning again where the text is too short."""
    texts = Records.from_rows({"id": row["id"], "text": row["text"]} for row in data.replay())
    stream = examples.packed(tokenizer, texts, length).tokens
    return [{"id": str(i), "input_ids": np.take(stream, range(i * length, (i + 1) * length), mode="wrap").tolist()}
            for i in range(count)]  # fmt: skip


def _files(place: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Path]:
    pool, rounds = chats(POOL), range(PAIRS + 1)
    lengths = examples.conversations(tokenizer, Records.from_rows(pool), 1024).lengths
    micro = np.argsort(-lengths, kind="stable").reshape(-1, MICRO)  # [micro-batches, rows], longest first
    apart = len(micro) * MICRO // CHATS  # between two of a step
    full = packed(tokenizer, (PAIRS + 1) * PACKED, LENGTH)
    found = {
        "chats": [pool[n * CHATS : (n + 1) * CHATS] for n in rounds],
        "grouped": [[pool[i] for i in micro[(2 * n + 1) * apart // (2 * len(rounds)) :: apart].flat] for n in rounds],
        "full": [full[n * PACKED : (n + 1) * PACKED] for n in rounds],
    }
    return {kind: write(place / f"{kind}.jsonl", found[kind]) for kind in found}
