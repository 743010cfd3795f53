"""Three steps on every weight of SmolLM2 with one optimizer: ``python lomo_round.py lomo kept``; see ``lomo.py``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Round, serve
from benchmarks.sides.loss_round import CLEAR, resident

from metier.data.ingest import general_text
from metier.lm import load
from metier.store import Work, home
from metier.train import examples
from metier.train.run import Run
from metier.train.setup import Setup, method

STEPS, LENGTH = 3, 256
RATES = {"adamw": 1e-5, "lomo": 1e-2, "adalomo": 1e-3}


def main() -> None:
    name, activations = sys.argv[1:]
    model = load.resolve("smollm2", Work(home() / "models"))

    def work() -> Round:
        with tempfile.TemporaryDirectory() as place:
            data = general_text.read(work=Work(Path(place)))
            setup = Setup(
                parameters="full", optimizer=method("train.optimizer", "optimizer", name, lr=RATES[name]),
                schedule="constant", steps=STEPS, batch=1, micro_tokens=LENGTH, length=LENGTH, order="given",
                max_grad_norm=0.0 if name != "adamw" else 1.0, precision="fp32",
                recompute=activations == "again", work=Work(Path(place)),
            )  # fmt: skip
            held = resident("VmRSS")
            run = Run(model, data, setup, examples.packed, "benchmark")
            first = run.step()
            CLEAR.write_text("5")  # the most so far is now what is held
            later = [run.step() for _ in range(STEPS - 1)]
            memory = resident("VmHWM") - held
            weights = sum(p.numel() * p.element_size() for p in run.network.parameters())
        return {"memory": memory, "weights": weights, "loss": first["loss"],
                "seconds": sum(row["seconds"] for row in later)}  # fmt: skip

    serve(work)


if __name__ == "__main__":
    main()
