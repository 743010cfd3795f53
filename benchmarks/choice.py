"""Multiple choice by log-probabilities, against lm-eval's transformers backend: SmolLM2-135M, float32, batches of 16.

The questions are metier's own retention data, as `tasks.general` asks them. A round is the log-probability of every
choice of every question, tokenising included, loading the weights not; both sides read the same characters, the mark
that separates documents first. The log-probabilities are compared in every round.

Both sides read a stem once when its choices are of one token each: lm-eval looks all of them up in one row of logits.
So the ratio has two parts, told apart by the kinds: stems shared by choices of several tokens (films), and a head that
is applied only where something is scored (all of them, and all there is for choices of one token).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import HERE, PAIRS, Round, Row, Side, interleaved, machine, python, ratio
from transformers import PreTrainedTokenizerBase

from metier.general import data
from metier.lm import load, tokens
from metier.store import Work, home

AGAINST, PEER_ROWS = "lm-eval 0.4.13 hf, batch 16", 16
FEWEST = 4  # choices of a question
SHOTS, SHOT_QUESTIONS = 3, 40
NEAR = 1e-3  # nats
Question = dict[str, Any]


def rows() -> Iterator[Row]:
    os.environ.pop("OMP_NUM_THREADS", None)  # both sides take every core
    model = load.resolve("smollm2", Work(home() / "models"))
    tokenizer = load.tokenizer_of(model)
    films, words = _asked({"movies"}), _asked({"facts", "knowledge"})
    solved = "\n\n".join(q["question"] + q["choices"][q["gold"]] for q in films[:SHOTS]) + "\n\n"
    kinds = [
        ("multiple choice, shared stem", ">= 2.5", films, ""),
        ("multiple choice, shared stem, three solved questions before each", "",
         films[SHOTS : SHOTS + SHOT_QUESTIONS], solved),
        ("multiple choice, choices of about one token", "", words, ""),
    ]  # fmt: skip
    for work, bar, questions, before in kinds:
        mark = tokenizer.decode(tokens.start_ids(tokenizer)) + before
        asked = [{"prompt": mark + q["question"], "choices": q["choices"]} for q in questions]
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "questions.json"
            file.write_text(json.dumps(asked), encoding="utf-8")
            ours = Side(HERE / "sides" / "choice_ours.py", str(model.path), str(file))
            theirs = Side(HERE / "sides" / "choice_lm_eval.py", str(model.path), str(file), str(PEER_ROWS),
                          python=python("lm_eval"))  # fmt: skip
            pairs = interleaved(ours, theirs, PAIRS, _agree)
        yield Row(work, AGAINST, *ratio(pairs, "rate"), bar, "ours / theirs, questions a second", PAIRS, machine(),
                  _told(tokenizer, asked))  # fmt: skip


def _asked(kinds: set[str]) -> list[Question]:
    return [q for q in data.choice_items() if q["measure"] in kinds and len(q["choices"]) >= FEWEST]


def _told(tokenizer: PreTrainedTokenizerBase, asked: list[Question]) -> str:
    """What there is to share: tokens of a question, its choices one by one and behind one stem."""

    def count(text: str) -> int:
        return len(tokens.encode(tokenizer, text))

    n, choices = len(asked), sum(len(q["choices"]) for q in asked)
    stem = sum(count(q["prompt"]) for q in asked)
    whole = sum(count(q["prompt"] + choice) for q in asked for choice in q["choices"])
    own = whole - sum(count(q["prompt"]) * len(q["choices"]) for q in asked)
    return (f"{n} questions, {choices / n:.1f} choices of {own / choices:.1f} tokens behind a stem of {stem / n:.0f};"
            f" {whole / n:.0f} tokens a question written out, {(stem + own) / n:.0f} with the stem once")  # fmt: skip


def _agree(ours: Round, theirs: Round) -> None:
    differ = max(abs(a - b) for a, b in zip(ours["scores"], theirs["scores"], strict=True))
    if not differ <= NEAR:
        raise SystemExit(f"multiple choice: a log-probability differs by {differ:.1e} nats between the two sides,"
                         f" more than {NEAR:.0e}")  # fmt: skip
