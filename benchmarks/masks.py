"""Chat templates × generated conversations: is what is trained on what is rendered and what is served?

    python benchmarks/masks.py [--conversations 1000]

A template's conversations are dealt to four tokenizers: bytes (as GPT), pieces (as Llama 2), glued (as Phi-3) and
SmolLM2's. Prints mismatches and how many conversations a second are masked (CPU time); exit code 1 when one is off.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import talks
from metier.lm import load, tokens
from metier.options import MetierError
from metier.store import Work, home

KINDS = ("bytes", "pieces", "glued", "base")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--conversations", type=int, default=1000)
    count = arguments.parse_args().conversations
    base = load.tokenizer_of(load.resolve("smollm2", Work(home() / "models")))
    print("template             " + "".join(f"{'SmolLM2' if k == 'base' else k:>20}" for k in KINDS))
    begun, asked, wrong = time.monotonic(), 0, 0
    for template in talks.templates():
        cells = []
        for kind in KINDS:
            tokenizer = talks.tokenizer(kind, template, base)
            seeds = range(KINDS.index(kind), count, len(KINDS))
            conversations = [talks.conversation(seed, template.system) for seed in seeds]
            found = [problem for c in conversations if (problem := _problem(tokenizer, template, kind, c))]
            asked, wrong = asked + len(conversations), wrong + len(found)
            cells.append(
                f"{len(found)} wrong" + ("" if template.refused else f", {_speed(tokenizer, conversations):.0f}/s")
            )
            for problem in found[:3]:
                print(f"  {template.name}, {kind}: {problem}", file=sys.stderr)
        print(f"{template.name:<21}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    print(f"{asked} conversations, {wrong} mismatches, {time.monotonic() - begun:.0f} s")
    return int(wrong > 0)


def _problem(tokenizer: object, template: talks.Template, kind: str, conversation: talks.Conversation) -> str | None:
    """A refusal is right where the first line of the template says so."""
    try:
        return talks.mismatch(tokenizer, template, kind, conversation)
    except MetierError as error:
        return None if template.refused and template.refused in str(error) else str(error)


def _speed(tokenizer: object, conversations: list[talks.Conversation]) -> float:
    begun = time.process_time()
    for conversation in conversations:
        tokens.supervised(tokenizer, {"id": "x", "messages": conversation})
    return len(conversations) / (time.process_time() - begun)


if __name__ == "__main__":
    sys.exit(main())
