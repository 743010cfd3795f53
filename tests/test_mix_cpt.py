"""The ready recipe of Mix-CPT from end to end, on the toy model."""

from __future__ import annotations

import json
from pathlib import Path

from metier import road, runner
from metier.laws import toy as maker
from metier.lm import load
from metier.store import Store


def test_knowledge_first_and_then_a_little_format(toy, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for row in maker.texts(24, words=80):
        (documents / f"{row['id']}.txt").write_text(row["text"] + ".\n", encoding="utf-8")
    asked = [{"messages": row["messages"]} for row in maker.questions(40)]
    rated = [{"prompt": row["messages"][0]["content"], "chosen": row["messages"][1]["content"], "rejected": "valve"}
             for row in maker.questions(40, seed=1)]  # fmt: skip
    for name, rows in (("asked", asked), ("rated", rated)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = {
        "base.path": str(toy.path), "chunks.source": [str(documents)], "asked.source": [str(tmp_path / "asked.jsonl")],
        "rated.source": [str(tmp_path / "rated.jsonl")], "domain.cloze": 0, "informed.step_tokens": 256,
        "general": {"use": "tasks.general", "choice": 1, "prose": 1, "arithmetic": 0, "grammar": 0, "forms": 0},
    }  # fmt: skip
    done = runner.run(road.checked(road.RECIPES / "mix_cpt.yaml", changes), Store(tmp_path / "home"))
    sources = done["mixed"].open().column("source")
    assert set(sources) == {"domain", "instructions", "preferences"}
    for name in ("few_asked", "few_rated"):
        assert len(done[name].open()) == 4
    losses = [row["loss"] for row in done["expert"].log() if "loss" in row]
    assert losses and losses[0] < 1  # from log 2 on
    expert = done["expert"].open()
    assert expert.base.digest == toy.digest and load.open(expert).logprobs(["river"], [" rises"])[0].tokens > 0
