"""metier's log-probabilities of every choice: ``python choice_ours.py MODEL QUESTIONS``; see ``choice.py``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Round, serve

from metier.lm import load
from metier.store import Work


def main() -> None:
    questions = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    prompts = [q["prompt"] for q in questions for _ in q["choices"]]
    choices = [choice for q in questions for choice in q["choices"]]
    with tempfile.TemporaryDirectory() as place:
        chat = load.open(load.resolve(sys.argv[1], Work(Path(place))))
        chat.logprobs(prompts[:4], choices[:4])  # loads the weights

        def work() -> Round:
            begun = time.perf_counter()
            found = chat.logprobs(prompts, choices)
            seconds = time.perf_counter() - begun
            return {"scores": [f.sum for f in found], "rate": len(questions) / seconds}

        serve(work)


if __name__ == "__main__":
    main()
