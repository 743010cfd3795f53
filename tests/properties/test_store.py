"""A store as kills, torn files and other hands leave it: what is finished stays whole, what is not begins again."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import junk
from metier.artefacts import Records
from metier.store import Store, Work, read_log
from metier.train import checkpoint

KEYS = st.sampled_from(["k1", "k2"])
draws = st.integers(0, 2**32).map(random.Random)


def made(key: str) -> Records:
    return Records.from_rows([{"id": key, "text": f"what {key} is"}])


class Kept(RuleBasedStateMachine):
    """Commits, loads and kills in any order; the model is the set of keys that were committed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.done: set[str] = set()

    @rule(key=KEYS)
    def commit(self, key: str) -> None:
        with self.store.computing(key) as folder:
            if self.store.manifest(key) is None:
                assert key not in self.done
                Work(folder).log(step=1)
                self.store.commit(key, made(key), {"seconds": 1.0})
                self.done.add(key)

    @rule(key=KEYS, draw=draws)
    def killed_at_work(self, key: str, draw: random.Random) -> None:
        with self.store.computing(key) as folder:
            if self.store.manifest(key) is None:
                (folder / "records.arrow").write_bytes(draw.randbytes(30))
                (folder / "manifest.tmp").write_bytes(b'{"kind": "Rec')
                (folder / "model").mkdir(exist_ok=True)
                (folder / "log.jsonl").write_bytes(b'{"step": 1}\n{"ste\xff')
                (folder / "checkpoints" / "step-000000001").mkdir(parents=True, exist_ok=True)

    @rule(key=KEYS)
    def killed_before_the_last_rename(self, key: str) -> None:
        with self.store.computing(key) as folder:
            if self.store.manifest(key) is None:
                artefact = made(key)
                artefact.save(folder)
                facts = {"kind": "Records", "digest": artefact.digest, "seconds": 1.0}
                (folder / "manifest.json").write_text(json.dumps(facts))

    @rule(key=KEYS)
    def left_behind_by_other_hands(self, key: str) -> None:
        if key not in self.done and not (self.store.steps / f"{key}.part").exists():
            (self.store.steps / f"{key}.part").mkdir(parents=True)

    @invariant()
    def what_is_finished_is_whole(self) -> None:
        for key in ("k1", "k2"):
            manifest = self.store.manifest(key)
            if manifest is not None:
                self.done.add(key)  # a killed run's step counts once it lies in its place
                assert manifest["digest"] == made(key).digest == self.store.load(key).digest
            else:
                assert key not in self.done
            self.store.log(key)

    def teardown(self) -> None:
        self.folder.cleanup()


def test_any_order_of_work_and_kills() -> None:
    run_state_machine_as_test(Kept, settings=settings(max_examples=40, stateful_step_count=12, deadline=None))


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5), draws
)
@settings(deadline=None)
def test_a_torn_log_gives_the_rows_before_the_tear(rows: list[dict[str, object]], draw: random.Random) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Work(Path(name))
        for row in rows:
            work.log(row=row)
        assert read_log(Path(name)) == [{"row": row} for row in rows]
        if rows:
            path = Path(name) / "log.jsonl"
            whole = path.read_bytes()
            path.write_bytes(whole[: draw.randrange(len(whole))])
            told = read_log(Path(name))
            assert told == [{"row": row} for row in rows][: len(told)] and len(told) >= path.read_bytes().count(b"\n")


@given(draws)
@settings(max_examples=40, deadline=None)
def test_the_newest_whole_checkpoint_is_taken_and_the_others_named(draw: random.Random) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in (1, 2):
            weights = {"weights": {"w": torch.full((4,), float(step))}}
            checkpoint.save(folder, checkpoint.Checkpoint(weights, {"step": step}))
        torn = draw.choice([[], ["2"], ["1"], ["1", "2"]])
        for step in torn:
            path = draw.choice(sorted((folder / f"step-00000000{step}").iterdir()))
            whole = path.read_bytes()
            path.unlink() if draw.random() < 0.3 else path.write_bytes(_torn(draw, whole))
        found, skipped = checkpoint.newest(folder)
        left = {"1", "2"} - set(torn)
        assert (found.state["step"] if found else None) == max(map(int, left), default=None)
        if found is not None:
            assert found.groups["weights"]["w"].tolist() == [float(found.state["step"])] * 4
        newer = [step for step in torn if not left or int(step) > max(map(int, left))]
        assert len(skipped) == len(newer) and all(any(f"step-00000000{s}" in said for said in skipped) for s in newer)


def _torn(draw: random.Random, whole: bytes) -> bytes:
    while (found := junk.changed(draw, whole)) == whole:
        pass
    return found
