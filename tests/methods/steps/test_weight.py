from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from metier.artefacts import Records, Scores
from metier.laws import toy as maker
from metier.options import MetierError
from metier.steps import weight
from metier.store import Work
from metier.train import batches, examples


def records(*weights: float | None) -> Records:
    made = Records.from_rows({"id": f"r{i}", "text": "a"} for i in range(3))
    return made.with_column("weight", list(weights)) if weights else made


def scores(*values: float | str) -> Scores:
    return Scores.from_rows(
        {"id": f"r{i}", "score": None if isinstance(v, str) else v, "reason": v if isinstance(v, str) else None}
        for i, v in enumerate(values)
    )


def test_weights_have_the_ratio_of_the_scores_and_a_mean_of_1(tmp_path):
    assert weight.run(records(), scores(1, 2, 3), work=Work(tmp_path)).column("weight") == [0.5, 1.0, 1.5]
    by_id = Scores.from_rows([{"id": f"r{i}", "score": float(s)} for i, s in ((2, 3), (0, 1), (1, 2))])
    assert weight.run(records(), by_id, work=Work(tmp_path)).column("weight") == [0.5, 1.0, 1.5]


def test_weights_that_were_there_are_multiplied(tmp_path):
    assert weight.run(records(3, None, 1), scores(1, 2, 1), work=Work(tmp_path)).column("weight") == [1.5, 1.0, 0.5]


def test_a_reason_drops_a_record_and_the_others_have_a_mean_of_1(tmp_path):
    made = weight.run(records(), scores(1, "too long", 3), work=Work(tmp_path))
    assert made.column("id") == ["r0", "r2"] and made.column("weight") == [0.5, 1.5]
    assert [r["reason"] for r in Work(tmp_path).rows() if r["event"] == "dropped"] == ["too long"]


@pytest.mark.parametrize("data, given, words", [
    (records(), scores(1, -0.5, 1), r"^weight: a score must be at least 0 to be a weight, the lowest is -0.5"),
    (records(), scores(0, 0, 0), r"^weight: all 3 weights are 0"),
    (records(0, 0, 1), scores(1, 1, 0), r"^weight: all 3 weights are 0"),
    (records(), scores("a", "b", "b"), r"^weight: nothing is left of 3 records"),
    (records(), scores(1, 1), r"^weight: record 'r2' has no row in the scores"),
])  # fmt: skip
def test_what_cannot_weigh_is_refused(data, given, words, tmp_path):
    with pytest.raises(MetierError, match=words):
        weight.run(data, given, work=Work(tmp_path))


def test_the_batch_carries_them(toy, tmp_path):
    data = maker.questions(3)
    given = Scores.from_rows({"id": i, "score": float(s)} for s, i in enumerate(data.column("id"), start=1))
    made = weight.run(data, given, work=Work(tmp_path))
    read, rows = examples.conversations(AutoTokenizer.from_pretrained(toy.path), made, 64), np.arange(3)
    found = batches.collate(read, rows, rows, seed=0, epoch=0, progress=0.0, device=torch.device("cpu"))
    assert found.weight.tolist() == [0.5, 1.0, 1.5]
