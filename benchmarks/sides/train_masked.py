"""Training with one way of choosing what moves: ``python train_masked.py '{settings}'``; see ``gradient_masks.py``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.harness import Round, serve
from benchmarks.sides.train_ours import full_rows

from metier.artefacts import Records
from metier.lm import load
from metier.store import Work, home
from metier.train import batches, units
from metier.train.run import Run
from metier.train.setup import Setup, method

NAME = "benchmark"


def main() -> None:
    given = json.loads(sys.argv[1])
    options = dict(given["options"])
    rows = json.loads(Path(given["data"]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        model = load.resolve("smollm2", Work(home() / "models"))
        if given["parameters"] == "das":  # how important a unit is changes nothing in the time
            draw = torch.Generator().manual_seed(0)
            sizes = units.sizes(NAME, load.network(model)[0])
            drawn = {kind: torch.rand(size, generator=draw) for kind, size in sizes.items()}
            options["importance"] = units.write(drawn, {}, Work(Path(place)))
        parameters = method("train.parameters", "prepare", given["parameters"], **options)

        steps = np.arange(len(rows)).reshape(-1, given["batch"])
        setup = Setup(
            parameters=parameters, optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-5),
            schedule="constant", steps=len(steps), batch=given["batch"], micro_tokens=given["micro_tokens"],
            length=1024, precision="fp32", work=Work(Path(place)),
        )  # fmt: skip
        tokenizer = load.tokenizer_of(model)
        for row in rows:  # a mask may look at the data in its own way
            row["text"] = tokenizer.decode(row["input_ids"])
        run = Run(model, Records.from_rows(rows), setup, full_rows, NAME)
        run.plan = [batches.Window(0, step, int(run.examples.lengths[step].sum())) for step in steps]

        def work() -> Round:
            begun = time.perf_counter()
            row = run.step()
            return {"step": row["step"], "loss": row["loss"], "seconds": time.perf_counter() - begun}

        serve(work)


if __name__ == "__main__":
    main()
