"""metier's greedy replies, so many asked at once: ``python generate_ours.py '{settings}'``; see ``generation.py``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Round, serve

from metier.lm import load
from metier.lm.chat import Sampling
from metier.store import Work


def main() -> None:
    given = json.loads(sys.argv[1])
    conversations = [[{"role": "user", "content": prompt}] for prompt in given["prompts"]]
    together = given["together"]
    parts = [conversations[i : i + together] for i in range(0, len(conversations), together)]
    with tempfile.TemporaryDirectory() as place:
        chat = load.open(load.resolve(given["model"], Work(Path(place))))
        chat.reply(parts[0], Sampling(max_tokens=1))  # loads the weights

        def work() -> Round:
            begun = time.perf_counter()
            replies = [r for part in parts for r in chat.reply(part, Sampling(max_tokens=given["tokens"]))]
            seconds = time.perf_counter() - begun
            tokens = sum(r.tokens for r in replies)
            return {"texts": [r.text for r in replies], "tokens": tokens, "rate": tokens / seconds}

        serve(work)


if __name__ == "__main__":
    main()
