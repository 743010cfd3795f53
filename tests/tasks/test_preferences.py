from __future__ import annotations

from pathlib import Path

import pytest

from answering import Answering
from metier.artefacts import Records
from metier.evaluate import compare
from metier.lm import load, tokens
from metier.options import MetierError
from metier.store import Work
from metier.tasks import preferences


def pairs(count: int = 12) -> Records:
    return Records.from_rows(
        {"id": f"p{i}", "prompt": [{"role": "user", "content": f"ask {i}"}],
         "replies": [f"no {i}", f"certainly, it is {i}", "maybe"], "scores": [0.0, 1.0, 0.5]} for i in range(count)
    )  # fmt: skip


def asked(task, likes, folder: Path) -> dict[str, float]:
    found = compare.measure({"m": Answering("m", likes)}, [task], work=Work(folder)).numbers["totals"]["m"]
    return {name: total["value"] for name, total in found["preferences"].items()}


def test_the_better_reply_is_right_wherever_it_stands(tmp_path: Path) -> None:
    task = preferences.make(pairs())
    rows = [r for r in task.records if r["measure"] == "pair"]
    assert {r["gold"] for r in rows} == {0, 1} and {r["prompt"] for r in rows} == {f"ask {i}\n" for i in range(12)}
    assert all(r["choices"][r["gold"]].startswith("certainly") and "maybe" not in r["choices"] for r in rows)
    assert asked(task, lambda p, c: -2.0 * len(c) if c.startswith("no") else -len(c), tmp_path / "1")["pair"] == 1
    assert asked(task, lambda p, c: -1.0 * len(c) if c.startswith("no") else -2.0 * len(c), tmp_path / "2")["pair"] == 0
    per_byte = asked(task, lambda p, c: -float(len(c)), tmp_path / "3")["pair"]
    assert 0 < per_byte < 1  # a tie: neither side has the first place
    shorter = asked(preferences.make(pairs(), normalise="none"), lambda p, c: -float(len(c)), tmp_path / "4")
    assert shorter["pair"] == 0 and shorter["better"] == pytest.approx(1 / 0.6931471805599453)


def test_prompts_stand_in_the_template_that_replies_are_learnt_in(toy) -> None:
    task = preferences.make(pairs(2), model=toy)
    wanted = tokens.render(load.tokenizer_of(toy), [{"role": "user", "content": "ask 1"}], reply=True)
    assert task.records.column("prompt")[-1] == wanted and "<|im_start|>" in wanted


def test_what_is_no_pair_is_left_out_and_only_the_test_split_is_asked() -> None:
    odd = [{"id": "tied", "prompt": [{"role": "user", "content": "a"}], "replies": ["b", "c"], "scores": [1.0, 1.0]}]
    rows = [{**row, "split": "test"} for row in [*pairs(3), *odd]]
    task = preferences.make(Records.from_rows([*rows, {**next(iter(pairs(1))), "id": "t", "split": "train"}]))
    assert {r["cluster"] for r in task.records} == {"p0", "p1", "p2"}
    assert task.notes["left_out"] == {"no two replies of different scores": 1}
    with pytest.raises(MetierError, match=r"^tasks\.preferences: no record holds two replies of different scores"):
        preferences.make(Records.from_rows(odd))
    with pytest.raises(MetierError, match=r"^tasks\.preferences: needs preferences .*; records have: id, text"):
        preferences.make(Records.from_rows([{"id": "1", "text": "a"}]))
