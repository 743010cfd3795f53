"""Perfect answers reach the top, totals are ratios of sums, what a killed run measured is not asked again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from answering import Answering, knowing
from metier.artefacts import Measure, Records, Task
from metier.evaluate import compare
from metier.evaluate._ask import asked
from metier.options import MetierError
from metier.store import Work
from metier.tasks import general


def small() -> Task:
    return general.make(choice=6, prose=4, arithmetic=6, grammar=8, forms=6)


def by_hand() -> Task:
    rows = [
        {"id": "a", "split": "test", "measure": "read", "cluster": "1", "prompt": "", "text": "four"},
        {"id": "b", "split": "test", "measure": "read", "cluster": "2", "prompt": "p", "text": "twelve bytes"},
        {
            "id": "c",
            "split": "test",
            "measure": "pick",
            "cluster": "c",
            "prompt": "q",
            "choices": [" no", " right"],
            "gold": 1,
        },
        {"id": "d", "split": "train", "text": "not asked"},
    ]
    measures = {
        "read": Measure("read", "domain", "bits per byte", "lower", "text", "Bits."),
        "pick": Measure("choose", "domain", "accuracy", "higher", "choices", "Choices."),
    }
    return Task("hand", "tasks.general", Records.from_rows(rows), measures)


def test_values_by_hand(tmp_path: Path) -> None:
    chat = Answering(
        "x", lambda p, c: {"four": -4 * math.log(2), "twelve bytes": -4 * math.log(2), " no": -2.0, " right": -3.0}[c]
    )
    report = compare.measure({"m": chat}, [by_hand()], work=Work(tmp_path))
    rows = {r["id"]: r for r in report.rows.to_pylist()}
    assert (rows["a"]["value"], rows["a"]["weight"]) == (pytest.approx(4), 4)
    assert (rows["b"]["value"], rows["b"]["weight"]) == (pytest.approx(4), 12)
    assert (rows["c"]["value"], rows["c"]["gold"], rows["c"]["reply"]) == (0, " right", " no")
    totals = report.numbers["totals"]["m"]["hand"]
    assert totals["read"] == {"value": pytest.approx(8 / 16), "n": 2}  # not the mean of 1 and 1/3
    assert totals["pick"] == {"value": 0, "n": 1}
    assert report.rows.column_names == [
        "task",
        "measure",
        "chat",
        "id",
        "cluster",
        "value",
        "weight",
        "prompt",
        "gold",
        "reply",
    ]
    assert report.numbers["cost"]["tokens"] == 1 + 2 + 1 + 1


def test_length_of_choices_can_be_taken_out(tmp_path: Path) -> None:
    task = by_hand()
    task.measures["pick"] = Measure("choose", "domain", "accuracy", "higher", "c", "w", normalise="bytes")
    chat = Answering("x", lambda p, c: {" no": -2.0, " right": -3.0}.get(c, -1.0))
    report = compare.measure({"m": chat}, [task], work=Work(tmp_path))
    assert report.numbers["totals"]["m"]["hand"]["pick"]["value"] == 1  # −3/6 is more than −2/3


def test_perfect_answers_reach_the_top(tmp_path: Path) -> None:
    task = small()
    report = compare.measure({"knowing": knowing(task)}, [task], work=Work(tmp_path))
    found = report.numbers["totals"]["knowing"]["general"]
    assert {name: found[name]["value"] for name in ("choice", "arithmetic", "grammar", "stops")} == dict.fromkeys(
        ("choice", "arithmetic", "grammar", "stops"), 1.0
    )
    assert found["bits_per_byte"]["value"] == pytest.approx(1)
    assert found["form"]["n"] == 6


def test_order_of_chats_and_tasks_changes_no_value(tmp_path: Path) -> None:
    tasks = [small(), by_hand()]
    one, two = Answering("1", lambda p, c: -float(hash_of(c))), Answering("2")
    first = compare.measure({"a": one, "b": two}, tasks, work=Work(tmp_path / "1"))
    second = compare.measure({"b": two, "a": one}, tasks[::-1], work=Work(tmp_path / "2"))
    key = [(c, "ascending") for c in ("chat", "task", "measure", "id")]
    assert first.rows.sort_by(key).equals(second.rows.sort_by(key))
    assert first.numbers["totals"] == second.numbers["totals"]


def hash_of(text: str) -> int:
    return sum(text.encode()) % 97


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    task = small()

    class Killed(Exception): ...

    def killed(prompt: str, choice: str) -> float:
        if "plus" in prompt or "times" in prompt:
            raise Killed
        return -float(hash_of(choice))

    whole = compare.measure(
        {"m": Answering("m", lambda p, c: -float(hash_of(c)))}, [task], work=Work(tmp_path / "whole")
    )
    with pytest.raises(Killed):
        compare.measure({"m": Answering("m", killed)}, [task], work=Work(tmp_path / "parts"))
    again = Answering("m", lambda p, c: -float(hash_of(c)))
    found = compare.measure({"m": again}, [task], work=Work(tmp_path / "parts"))
    assert found.digest == whole.digest
    assert {c for _, c in again.asked}.isdisjoint(r["text"] for r in asked(task)["bits_per_byte"])
    assert found.numbers["cost"]["tokens"] == whole.numbers["cost"]["tokens"]


def test_another_model_is_asked_anew(tmp_path: Path) -> None:
    task = small()
    compare.measure({"m": Answering("one")}, [task], work=Work(tmp_path))
    other = Answering("two")
    compare.measure({"m": other}, [task], work=Work(tmp_path))
    assert len(other.asked) > 20


def test_every_chat_is_closed_and_progress_ends_at_its_total(tmp_path: Path) -> None:
    from contextlib import contextmanager

    seen: list[float] = []

    @contextmanager
    def progress(label: str, total: float):  # type: ignore[no-untyped-def]
        class Bar:
            def advance(self, units: float = 1, note: str = "") -> None:
                seen.append(units)

        yield Bar()
        assert sum(seen) == pytest.approx(total)

    chats = {"a": Answering("a"), "b": Answering("b")}
    compare.measure(chats, [small()], work=Work(tmp_path, progress))
    assert seen and chats["a"].closed == chats["b"].closed == 1


def test_nothing_to_ask_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetierError, match="no chat, no task or no row"):
        compare.measure({}, [small()], work=Work(tmp_path))
    with pytest.raises(MetierError, match="same name"):
        compare.measure({"a": Answering("a")}, [small(), small()], work=Work(tmp_path))
