"""metier's own training steps on the rows of a round: ``python train_ours.py '{settings}'``; see ``training.py``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.harness import Round, serve
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Records
from metier.lm import load
from metier.store import Work
from metier.train import batches, examples
from metier.train.run import Run
from metier.train.setup import Setup, method


def full_rows(
    tokenizer: PreTrainedTokenizerBase, data: Records, length: int, wanted: examples.Wanted
) -> examples.Examples:  # fmt: skip
    """Rows that were tokenised and packed beforehand, for all sides alike."""
    rows = [np.asarray(row, np.int32) for row in data.column("input_ids")]
    stream, offsets = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    return examples.Examples(data.column("id"), stream, stream, offsets, np.ones(len(rows)), {}, {})


def main() -> None:
    given = json.loads(sys.argv[1])
    lora = given["kind"] == "lora"
    parameters = method("train.parameters", "prepare", "lora", rank=given["rank"], alpha=given["alpha"])
    rounds = iter(Path(given["data"]).read_text(encoding="utf-8").splitlines())
    with tempfile.TemporaryDirectory() as place:
        model = load.resolve(given["model"], Work(Path(place)))

        def work() -> Round:
            rows = json.loads(next(rounds))
            size = len(rows) // given["steps"]
            setup = Setup(
                parameters=parameters if lora else "full",
                optimizer=method("train.optimizer", "optimizer", "adamw", lr=given["rate"]),
                schedule="constant", steps=given["steps"], batch=size, micro_tokens=given["micro_tokens"], length=1024,
                precision=given["precision"], work=Work(Path(place)),
            )  # fmt: skip
            read = examples.conversations if lora else full_rows
            run = Run(model, Records.from_rows(rows), setup, read, "benchmark")
            steps = np.arange(len(rows)).reshape(-1, size)  # in the order of the file, as on the other side
            run.plan = [batches.Window(0, step, int(run.examples.lengths[step].sum())) for step in steps]
            begun = time.perf_counter()
            losses = [run.step()["loss"] for _ in run.plan]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
            supervised = int(run.examples.targets.sum())
            return {"loss": losses[0], "supervised": supervised, "seconds": seconds, "rate": supervised / seconds}

        serve(work)


if __name__ == "__main__":
    main()
