from __future__ import annotations

import itertools
from math import comb

import pytest

from metier.artefacts import Measure, Records, Task
from metier.evaluate import pass_at
from metier.lm import load
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Work
from metier.tasks import arithmetic


class Sometimes:
    """Gives the right sum so many times of a prompt's samples, the first ones."""

    access, digest, ROLE = "text", "sometimes", "artefact"

    def __init__(self, right):
        self.right = right

    def reply(self, conversations, sampling, advance=None):
        found = []
        for turns in conversations:
            a, b = turns[-1]["content"].rstrip("=").split("+")
            found += [
                Reply(str(int(a) + int(b) + (k >= self.right[turns[-1]["content"]])), 1, None, "stop")
                for k in range(sampling.n)
            ]
        return found

    def close(self): ...


@pytest.fixture
def task():
    return arithmetic.make(shown=0, train=1, dev=0, test=4)


@pytest.mark.parametrize("n, right, k", [(8, 0, 3), (8, 3, 1), (8, 3, 4), (8, 6, 3), (5, 5, 5), (6, 1, 6)])
def test_the_estimate_is_the_share_of_all_choices_that_hold_a_right_one(n, right, k):
    choices = list(itertools.combinations(range(n), k))
    assert len(choices) == comb(n, k)
    share = sum(any(i < right for i in choice) for choice in choices) / len(choices)
    assert pass_at.estimate(n, right, k) == pytest.approx(share, abs=1e-12)


def test_the_report_has_a_row_a_question_and_k(task, tmp_path):
    prompts = task.part("test").column("prompt")
    chat = Sometimes(dict(zip(prompts, (0, 1, 2, 4), strict=True)))
    made = pass_at.measure({"m": chat}, [task], n=4, k=[2, 1, 2], work=Work(tmp_path))
    totals = made.numbers["totals"]["m"]["arithmetic"]
    assert totals["right.pass@1"] == {"value": pytest.approx(7 / 16), "n": 4}
    assert totals["right.pass@2"] == {"value": pytest.approx((0 + 1 / 2 + 5 / 6 + 1) / 4), "n": 4}
    assert set(totals) == {"right.pass@1", "right.pass@2"} == set(made.numbers["tasks"]["arithmetic"]["measures"])
    assert [r["reply"] for r in made.rows.to_pylist()[::2]] == [f"{c} of 4 are right" for c in (0, 1, 2, 4)]


def test_a_model_is_sampled(toy, task, tmp_path):
    made = pass_at.measure({"m": load.open(toy)}, [task], n=3, k=3, max_tokens=4, work=Work(tmp_path))
    assert made.numbers["totals"]["m"]["arithmetic"]["right.pass@3"]["n"] == 4
    assert made.numbers["cost"]["tokens"] > 4 * 3


@pytest.mark.parametrize("n, k", [(4, 8), (4, [1, 8]), (4, [])])
def test_more_tries_than_samples_are_refused(n, k):
    with pytest.raises(MetierError, match=r"evaluate\.pass_at: 'k' must be numbers of at most 'n', 4, got"):
        pass_at.tries_of(n, k)


def test_a_task_with_nothing_to_write_is_refused(tmp_path):
    read = Measure("read", "domain", "bits per byte", "lower", "text", "Bits.")
    row = {"id": "a", "split": "test", "measure": "read", "cluster": "1", "prompt": "", "text": "four"}
    with pytest.raises(MetierError, match="no row to write"):
        pass_at.measure({"m": Sometimes({})}, [Task("t", "tasks.general", Records.from_rows([row]), {"read": read})],
                        work=Work(tmp_path))  # fmt: skip
