"""The same with transformers' ``generate``: ``python generate_transformers.py '{settings}'``; see ``generation.py``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from benchmarks.harness import Round, serve
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    given = json.loads(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    network: Any = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32).eval()
    rows = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in given["prompts"]
    ]

    def work() -> Round:
        begun = time.perf_counter()
        asked = tokenizer(rows, add_special_tokens=False, padding=True, return_tensors="pt")
        with torch.inference_mode():
            made = network.generate(**asked, do_sample=False, max_new_tokens=given["tokens"])
        replies = [reply(row) for row in made[:, asked["input_ids"].shape[1] :].tolist()]
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        seconds = time.perf_counter() - begun
        tokens = sum(map(len, replies))
        return {"texts": texts, "tokens": tokens, "rate": tokens / seconds}

    def reply(ids: list[int]) -> list[int]:
        """Up to the token that ended it; what follows is padding."""
        return ids[: ids.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in ids else ids

    serve(work)


if __name__ == "__main__":
    main()
