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
