from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metier import calls, recipe
from metier.options import MetierError

GOOD = """
notes: {use: data.ingest.documents, source: [docs/]}
scored: {use: data.select.distinct, data: $notes}
kept: {use: keep, data: $notes, scores: $scored, share: 0.5}
"""


def objection(text: str, **changes: object) -> str:
    with pytest.raises(MetierError) as error:
        recipe.check(recipe.parse(text, "r.yaml", changes), "r.yaml")
    return str(error.value)


def test_a_good_recipe_binds_every_option() -> None:
    *_, kept = recipe.check(recipe.parse(GOOD))
    assert kept.method.name == "keep"
    assert kept.arguments["share"] == 0.5 and kept.arguments["above"] is None
    assert calls.describe(kept.arguments)["data"] == "$notes"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("share: 0.5", "share: 1.5", "r.yaml, line 4: keep: 'share' must be at most 1.0, got 1.5"),
        ("share: 0.5", "shard: 0.5", "r.yaml, line 4: keep: has no option 'shard'; did you mean 'share'?"),
        ("use: keep", "use: keeps", "r.yaml, line 4: kept: has no method 'keeps'; did you mean 'keep'?"),
        ("scores: $scored", "scores: $notes",
         "r.yaml, line 4: keep: 'scores' needs Scores, got Records from '$notes'"),
        ("data: $notes, scores", "data: $later, scores",
         "r.yaml, line 4: keep: 'data': has no step above called 'later'; it has: notes, scored"),
        (", scores: $scored", "", "r.yaml, line 4: keep: needs 'scores' (Scores)"),
        ("{use: keep,", "{", "r.yaml, line 4: step 'kept' must say which method it uses, 'kept: {use: …}'"),
        ("kept:", "notes:", "r.yaml, line 4: the step 'notes' stands twice"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_line(old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    assert objection(GOOD.replace(old, new)) == sentence


def test_set_reaches_into_a_step() -> None:
    *_, kept = recipe.check(recipe.parse(GOOD, changes={"kept.share": 0.25}))
    assert kept.arguments["share"] == 0.25
    assert (
        objection(GOOD, **{"keep.share": 1}) == "--set keep.share: has no step or option 'keep'; did you mean 'kept'?"
    )


def test_a_slot_named_by_a_word_takes_options() -> None:
    text = "base: model\nt: {use: train.loop.pretrain, model: $base, data: $base.x, steps: 1, parameters: lora}"
    steps = recipe.parse(text, changes={"t.parameters.rank": 4})
    call = recipe.check(steps)[-1]
    assert call.arguments["parameters"].arguments["rank"] == 4
    assert call.arguments["objective"].method.name == "train.objective.cross_entropy"
    with pytest.raises(MetierError, match="'parameters': has no method 'lola'; did you mean 'lora'"):
        recipe.check(recipe.parse(text.replace("lora", "lola")))


TRAINING = "base: model\nt: {use: train.loop.sft, model: $base, data: $base.x, steps: 1%s}"


@pytest.mark.parametrize("written", ["", ", optimizer: adamw", ", optimizer: {use: train.optimizer.adamw, beta1: 0.8}"])
def test_set_reaches_into_a_slot_however_the_recipe_fills_it(written: str) -> None:
    plain = recipe.check(recipe.parse(TRAINING % written))[-1]
    call = recipe.check(recipe.parse(TRAINING % written, changes={"t.optimizer.lr": 3e-4, "base.path": "smollm2"}))[-1]
    optimizer, before = call.arguments["optimizer"], plain.arguments["optimizer"]
    assert optimizer.method.name == before.method.name == "train.optimizer.adamw"
    assert optimizer.arguments == before.arguments | {"lr": 3e-4} != before.arguments
    assert {**call.arguments, "optimizer": before} == plain.arguments


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("t.optimizer.lrr", "r.yaml, line 2: train.optimizer.adamw: has no option 'lrr'; did you mean 'lr'?"),
        ("t.optimiser.lr", "--set t.optimiser.lr: has no step or option 'optimiser'; did you mean 'optimizer'?"),
        ("t.dev.split", "--set t.dev.split: 'dev' is not in the recipe; give all of it, --set t.dev=…"),
        ("t.terms.use", "--set t.terms.use: 'terms' is not in the recipe; give all of it, --set t.terms=…"),
        ("t.model.path", "--set t.model.path: 'model' holds '$base' and has no options"),
        ("t.steps.most", "--set t.steps.most: 'steps' holds 1 and has no options"),
    ],
)
def test_what_set_cannot_reach_is_told(path: str, sentence: str) -> None:
    assert objection(TRAINING % "", **{path: 1}) == sentence


def test_what_steps_share_by_an_alias_changes_for_all_of_them() -> None:
    shared = "base: model\nnotes: {use: data.ingest.general_text}\n" + "".join(
        f"{n}: {{use: train.loop.pretrain, model: $base, data: $notes, steps: 1, optimizer: {o}}}\n"
        for n, o in (("a", "&own {use: adamw}"), ("b", "*own"), ("c", "{use: adamw}"))
    )
    calls_ = recipe.check(recipe.parse(shared, changes={"a.optimizer.lr": 3e-4}))
    assert [c.arguments["optimizer"].arguments["lr"] for c in calls_[2:]] == [3e-4, 3e-4, 2e-4]


def test_a_loop_inside_another_takes_the_setup_of_the_outer_one() -> None:
    text = "base: model\nt: {use: train.rounds.stages, model: $base, data: [$base.x], steps: 1%s}"
    outer = recipe.check(recipe.parse(text % "", changes={"t.inner.use": "pretrain"}))[-1]
    assert outer.arguments["inner"].method.name == "train.loop.pretrain" and not outer.arguments["inner"].arguments
    told = objection(text % ", inner: {use: sft, epochs: 2}")
    assert told == "r.yaml, line 2: train.loop.sft: has no option 'epochs'; it has: none"
    told = objection(text % ", epochs: 1")
    assert told.endswith("train.loop.sft: give exactly one of 'epochs', 'steps', 'tokens', got epochs and steps")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=120) | st.builds(yaml.safe_dump, st.dictionaries(
    st.sampled_from(["a", "kept", "notes"]),
    st.dictionaries(st.sampled_from(["use", "data", "share", "scores", "source"]),
                    st.sampled_from(["keep", "model", "$a", "$notes.x", 1, None, "data.ingest.documents", [1]])),
    max_size=3)))  # fmt: skip
def test_any_text_is_a_recipe_or_one_sentence(text: str) -> None:
    try:
        recipe.check(recipe.parse(text, "r.yaml"), "r.yaml")
    except MetierError as error:
        assert str(error).startswith("r.yaml") and str(error).count("\n") == 0
