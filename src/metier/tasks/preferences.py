"""Which of two replies a model finds likelier: how often it is the better one.

For judging preference training (`train.loop.prefer`) on held-out pairs, without generating anything. Records are
preferences: prompt, replies and scores; the best and the worst reply are compared. Beside it stands how likely the
better replies are by themselves, since they may become less likely while the worse ones fall further. Not a judgement
of what the model writes by itself.

    pair = share of prompts with log p(y_w | x) / |y_w| > log p(y_l | x) / |y_l|        |y| in bytes, or 1
    better = Σ −log₂ p(y_w | x) / Σ bytes of y_w

Only the split *test* is asked where the records have one, else all of them are.

Options:
    normalise: length taken out of the comparison, by *bytes* or not at all.
    model: whose chat template the prompt is put in; a plain text with a line a turn when not given.
Raises: MetierError when the records hold no preference, or the template refuses a prompt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal

from transformers import PreTrainedTokenizerBase

from metier.artefacts import Measure, Model, Records, Row, Task
from metier.lm import load, tokens
from metier.options import MetierError
from metier.text import plain

NAME = "tasks.preferences"
NEEDS = {"chats": "logits"}
EXAMPLE = {"data": "$preferences"}


def make(data: Records, *, normalise: Literal["bytes", "none"] = "bytes", model: Model | None = None) -> Task:
    if not {"prompt", "replies", "scores"} <= set(data.columns):
        held = ", ".join(data.columns)
        raise MetierError(f"{NAME}: needs preferences (prompt, replies, scores); records have: {held}")
    tokenizer = None if model is None else load.tokenizer_of(model)
    asked = data.part("test") if "split" in data.columns else data
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    for row in asked:
        pair = _pair(row)
        if pair is None:
            left_out["no two replies of different scores"] += 1
            continue
        rows += _rows(row, *pair, _prompt(tokenizer, row))
    if not rows:
        raise MetierError(f"{NAME}: no record holds two replies of different scores")
    measures = {
        "pair": Measure("choose", "domain", "accuracy", "higher", "better replies preferred",
                        "How often the better of two replies is the likelier one.", chance=0.5, normalise=normalise),
        "better": Measure("read", "domain", "bits per byte", "lower", "better replies",
                          "How many bits the model needs for each byte of the better replies."),
    }  # fmt: skip
    return Task("preferences", NAME, Records.from_rows(rows), measures, {"left_out": dict(left_out)})


def _pair(row: Row) -> tuple[str, str] | None:
    """The best reply and the worst one."""
    rated = [(s, r) for s, r in zip(row["scores"] or [], row["replies"] or [], strict=True) if s is not None]
    if len(rated) < 2:
        return None
    (high, best), (low, worst) = max(rated, key=lambda p: p[0]), min(rated, key=lambda p: p[0])
    return (best, worst) if high > low and best != worst and best.strip() and worst.strip() else None


def _rows(row: Row, best: str, worst: str, prompt: str) -> list[Row]:
    first = hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 0  # of a tie the first choice is taken
    shared = {"split": "test", "cluster": row.get("group") or row["id"], "prompt": prompt}
    return [
        {"id": f"pair/{row['id']}", "measure": "pair", "choices": [best, worst] if first else [worst, best],
         "gold": int(not first), "text": None, **shared},
        {"id": f"better/{row['id']}", "measure": "better", "choices": None, "gold": None, "text": best, **shared},
    ]  # fmt: skip


def _prompt(tokenizer: PreTrainedTokenizerBase | None, row: Row) -> str:
    if tokenizer is None:
        return plain.before(row["prompt"])
    try:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]]
        return tokens.render(tokenizer, turns, reply=True)
    except MetierError as error:
        raise MetierError(f"{NAME}: record '{row['id']}': {error}") from None
