"""The same by lm-eval's transformers backend: ``python choice_lm_eval.py MODEL QUESTIONS ROWS``; see ``choice.py``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.harness import Round, serve
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main() -> None:
    questions = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    network = HFLM(pretrained=sys.argv[1], device="cpu", dtype="float32", batch_size=int(sys.argv[3]))
    requests = [
        Instance("loglikelihood", q, (q["prompt"], choice), number)
        for q in questions for number, choice in enumerate(q["choices"])
    ]  # fmt: skip

    def work() -> Round:
        begun = time.perf_counter()
        found = network.loglikelihood(requests, disable_tqdm=True)
        seconds = time.perf_counter() - begun
        return {"scores": [value for value, _ in found], "rate": len(questions) / seconds}

    serve(work)


if __name__ == "__main__":
    main()
