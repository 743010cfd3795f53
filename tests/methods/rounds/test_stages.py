from __future__ import annotations

import hashlib

import pytest

from metier import recipe, runner
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.options import MetierError
from metier.store import Store, Work, silent
from metier.train.loop import head, sft
from metier.train.rounds import stages
from metier.train.setup import Setup, method

DATA = [maker.questions(16), maker.questions(16, seed=1), maker.questions(16, seed=2)]
LORA = method("train.parameters", "prepare", "lora", rank=4, dropout=0.1)


def setup(folder, progress=silent, **changes):
    given = {"steps": 4, "batch": 8, "micro_tokens": 100, "parameters": LORA, "checkpoint_every": 1e-6}
    return Setup(**(given | changes), work=Work(folder, progress))


def files(model):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in model.path.iterdir()}


def test_each_stage_starts_from_the_last_one_with_a_fresh_optimizer(toy, tmp_path):
    """By hand: train, train the result, train that. Only the seed of later stages is derived."""
    made = stages.train(toy, DATA, setup(tmp_path / "all"))
    model = toy
    for number, data in enumerate(DATA, start=1):
        own = setup(tmp_path / str(number), seed=0 if number == 1 else stages.derive(0, "stage", number))
        model = sft.train(model, data, own)
        assert made.notes["stages"][number - 1]["loss"] == model.notes["loss"]
    assert files(made) == files(model) and made.digest == model.digest
    assert made.base == toy  # carried on, not stacked


def test_one_stage_is_the_inner_loop(toy, tmp_path):
    one, plain = stages.train(toy, DATA[:1], setup(tmp_path / "a")), sft.train(toy, DATA[0], setup(tmp_path / "b"))
    assert files(one) == files(plain)


def test_a_recipe_runs_it(toy, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the river", "completion": " rises"}\n' * 8)
    text = f"""
    base: {{use: model, path: {toy.path}}}
    rows: {{use: data.ingest.records, source: [{tmp_path}/rows.jsonl]}}
    made: {{use: train.rounds.stages, model: $base, data: [$rows, $rows], steps: 1, inner: sft}}
    """
    done = runner.run(recipe.check(recipe.parse(text)), Store(tmp_path / "home"))
    assert [stage["method"] for stage in done["made"].open().notes["stages"]] == ["train.loop.sft"] * 2


@pytest.mark.parametrize("parameters", [LORA, "full"])
def test_killed_anywhere_it_goes_on_there_and_ends_with_the_same_bytes(toy, tmp_path, parameters):
    whole = stages.train(toy, DATA, setup(tmp_path / "whole", parameters=parameters))
    killed = []
    for steps in (3, 6, 6):  # in the first, the second, the third stage, counting what is gone on with
        with pytest.raises(Interrupt):
            stages.train(toy, DATA, setup(tmp_path / "killed", Stopping(steps), parameters=parameters))
        killed.append(sorted(p.parent.name for p in (tmp_path / "killed" / "checkpoints").glob("stage-*/made.json")))
    assert killed == [[], ["stage-1"], ["stage-1", "stage-2"]]
    again = stages.train(toy, DATA, setup(tmp_path / "killed", parameters=parameters))
    assert files(again) == files(whole) and again.digest == whole.digest
    assert trained(tmp_path / "killed") == trained(tmp_path / "whole")


def trained(folder):
    return [(row.get("stage"), row["step"], row["loss"]) for row in Work(folder).rows() if "loss" in row]


def test_notes_and_log_tell_of_all_stages(toy, tmp_path):
    made = stages.train(toy, DATA[:2], setup(tmp_path))
    assert made.notes["steps"] == 8 and [s["steps"] for s in made.notes["stages"]] == [4, 4]
    assert made.notes["tokens_trained"] == sum(s["tokens_trained"] for s in made.notes["stages"])
    assert [(stage, step) for stage, step, _ in trained(tmp_path)] == [(1, 1), (1, 2), (1, 3), (1, 4)] + [
        (None, s) for s in (1, 2, 3, 4)
    ]
    assert not list((tmp_path / "checkpoints" / "stage-1").glob("checkpoints"))


def test_a_classifier_learns_in_stages_too(toy, tmp_path):
    rows = [{"id": r["id"], "text": r["text"], "label": "ab"[i % 2]} for i, r in enumerate(maker.texts(16))]
    made = stages.train(toy, [Records.from_rows(rows)] * 2, setup(tmp_path, steps=2), inner="head")
    assert made.head == "labels" and load.open(made).labels == ["a", "b"] and isinstance(head.SLOTS, tuple)


def test_no_stage_and_an_unknown_loop_are_refused(toy, tmp_path):
    with pytest.raises(MetierError, match="needs one set of records or more, got none"):
        stages.train(toy, [], setup(tmp_path))
    with pytest.raises(MetierError, match=r"train\.loop: has no method 'sfd'"):
        stages.train(toy, DATA, setup(tmp_path), inner="sfd")
