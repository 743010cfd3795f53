from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from metier.artefacts import Measure, Model, Records, Report, Scores, Task
from metier.options import MetierError
from metier.store import Store, Work, read_log, replacing

ROWS = [{"id": "a", "text": "one", "split": "train"}, {"id": "b", "text": "two", "split": "test"}]


def test_every_artefact_survives_the_store(tmp_path: Path) -> None:
    records = Records.from_rows(ROWS)
    measure = Measure(
        "read", "domain", "bits/byte", "lower", "held-out text", "how well the text is foreseen", margin=0.02
    )
    artefacts = [
        records,
        Scores.from_rows([{"id": "a", "score": 1.5}, {"id": "b", "reason": "junk", "why": 3}]),
        Task("domain", "tasks.documents", records, {"bits": measure}, {"n": 2}),
        Report({"lr": 1e-3, "cost": {"seconds": 3}}, records.table),
        Model(tmp_path / "elsewhere", "d1", Model(tmp_path / "base", "d0", source="smollm2"), notes={"steps": 7}),
    ]
    store = Store(tmp_path / "home")
    for i, artefact in enumerate(artefacts):
        with store.computing(f"k{i}"):
            store.commit(f"k{i}", artefact, {"seconds": 1.0})
        back = store.load(f"k{i}")
        assert type(back) is type(artefact) and back.digest == artefact.digest
        assert store.manifest(f"k{i}")["digest"] == artefact.digest
    assert store.load("k4").base.source == "smollm2" and store.load("k4").part("steps") == 7
    assert store.load("k2").measures["bits"] == measure


def test_a_model_made_by_a_step_moves_with_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.computing("k") as folder:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
        store.commit("k", Model(folder / "model", "d"), {})
    assert (store.load("k").path / "config.json").exists()


def test_the_digest_is_of_content_and_a_report_forgets_its_cost() -> None:
    records = Records.from_rows(ROWS)
    assert Records.from_rows(ROWS[:1] + ROWS[1:]).digest == records.digest
    assert records.take([1, 0]).digest != records.digest
    assert records.where([True, True]).digest == records.digest
    assert Report({"a": 1, "cost": 5}).digest == Report({"a": 1, "cost": 6}).digest != Report({"a": 2}).digest


def test_wrong_rows_are_refused_by_name() -> None:
    with pytest.raises(MetierError, match="the id 'a' stands twice"):
        Records.from_rows([{"id": "a"}, {"id": "a"}])
    with pytest.raises(MetierError, match="every record needs an 'id'"):
        Records.from_rows([{"text": "x"}])
    with pytest.raises(MetierError, match="record 'a' needs a score or a reason, and not both"):
        Scores.from_rows([{"id": "a", "score": 1.0, "reason": "junk"}])
    with pytest.raises(MetierError, match="no split 'dev'; they have: test, train"):
        Records.from_rows(ROWS).part("dev")
    with pytest.raises(MetierError, match="no column 'label'; they have: id, text, split"):
        Records.from_rows(ROWS).column("label")


def test_a_torn_log_line_is_left_out(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.log(step=1, loss=2.0)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replacing(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), replacing(target) as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]


def _compute(root: Path, log: Path) -> None:
    store = Store(root)
    with store.computing("k"):
        if store.manifest("k") is None:
            with log.open("a") as stream:
                stream.write("computed\n")
            time.sleep(0.3)
            store.commit("k", Records.from_rows(ROWS), {})


def test_two_processes_compute_a_step_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_compute, args=(tmp_path / "home", tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "computed\n"
