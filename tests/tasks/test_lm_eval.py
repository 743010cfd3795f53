from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier.options import MetierError

pytest.importorskip("lm_eval")

CARD = """
task: toy_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""


def test_a_task_of_the_harness_becomes_choices(tmp_path: Path) -> None:
    from metier.tasks import lm_eval

    rows = [
        {"q": "Grass is", "choices": ["red", "green"], "gold": 1},
        {"q": "A dog is an", "choices": ["animal", "ox", "egg"], "gold": 0},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "toy.yaml").write_text(CARD.format(data=tmp_path / "data.jsonl"))
    task = lm_eval.make(names=["toy_choice"], include=str(tmp_path))
    assert [(r["prompt"], r["choices"], r["gold"]) for r in task.records] == [
        ("Grass is", [" red", " green"], 1),
        ("A dog is an", [" animal", " ox", " egg"], 0),
    ]
    assert task.measures["toy_choice"].chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    with pytest.raises(MetierError, match="has no task 'toy_choise'; did you mean 'toy_choice'"):
        lm_eval.make(names=["toy_choise"], include=str(tmp_path))
