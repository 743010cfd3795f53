from __future__ import annotations

import random
from collections import Counter

import pytest

from metier.lm.generate import Reply
from metier.options import MetierError
from metier.tasks import arithmetic


def small(**changes):
    return arithmetic.make(**({"shown": 40, "train": 20, "dev": 10, "test": 30} | changes))


def graded(task, texts, split="test"):
    rows = list(task.part(split))[: len(texts)]
    return [g["right"] for g in task.grade(rows, [Reply(t, 1, None, "stop") for t in texts])]


def test_solutions_are_worked_from_the_right():
    assert arithmetic.solution(57, 68) == "7+8=15 5+6+1=12 #125"
    assert arithmetic.solution(12, 13) == "2+3=5 1+1=2 #25"
    assert arithmetic.solution(57, 68, 1) == "7+8=15 5+6=11 #115"  # its carry is forgotten
    assert arithmetic.solution(12, 13, 2) == "2+3=5 1+1=2 #125"  # one that is not there
    draw = random.Random(0)
    for _ in range(2000):
        length = draw.randint(1, 5)
        a, b = (draw.randint(10 ** (length - 1), 10**length - 1) for _ in range(2))
        assert arithmetic.solution(a, b).endswith(f" #{a + b}")
        assert not arithmetic.solution(a, b, draw.randint(1, length)).endswith(f"#{a + b}")


def test_splits_share_no_sum_and_only_the_test_is_asked():
    task = small()
    assert Counter(task.records.column("split")) == {"shown": 40, "train": 20, "dev": 10, "test": 30}
    assert len(set(task.records.column("prompt"))) == 100
    assert Counter(task.records.column("digits")) == {2: 50, 3: 50}
    assert {r["measure"] for r in task.part("test")} == {"right"} and "measure" not in task.part("train").columns
    assert "messages" not in task.part("dev").columns
    for row in task.records:
        a, b = map(int, row["prompt"].rstrip("=").split("+"))
        assert row["reference"] == str(a + b)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_so_many_shown_solutions_are_wrong_and_no_other(noise):
    task = small(noise=noise)
    for split, wrong in (("shown", round(40 * noise)), ("train", 0)):
        rows = list(task.part(split))
        right = graded(task, [r["messages"][-1]["content"] for r in rows], split)
        assert len(right) - sum(right) == wrong


def test_the_last_number_of_a_reply_is_graded_exactly():
    task = small()
    gold = task.part("test").column("reference")
    assert graded(task, [f"1+2=3 #{g}" for g in gold[:3]]) == [1, 1, 1]
    assert graded(task, [f"{gold[0]} 7", f" the sum is {gold[1]}.", f"#{gold[2]}0"]) == [0, 1, 0]
    assert graded(task, ["", "none", f"0{gold[2]}"]) == [0, 0, 0]


def test_the_seed_decides_and_too_many_are_refused():
    assert small().digest == small().digest != small(seed=1).digest
    with pytest.raises(MetierError, match="there are 81 sums of two numbers with 1 digits, asked for 100"):
        small(digits=[1])
    assert len(small(digits=[1], shown=21).records) == 81
