from __future__ import annotations

import pytest

from metier import recipe
from metier.options import MetierError
from metier.train.schedule import constant, cosine, linear, piecewise, warmup_stable_decay
from metier.train.setup import method

RISE = method("train.schedule", "rate", "linear", warmup=1.0)
PLATEAU = method("train.schedule", "rate", "plateau", levels=[1.0, 0.5], window=2, threshold=0.1)
TEXT = """
a: {use: model, path: smollm2}
d: {use: data.ingest.invented}
b: {use: train.loop.pretrain, model: $a, data: $d, steps: 9, schedule: {use: piecewise, parts: PARTS, at: AT}}
"""


def checked(parts: str, at: str) -> None:
    recipe.check(recipe.parse(TEXT.replace("PARTS", parts).replace("AT", at)))


def test_each_part_has_a_stretch_of_its_own():
    parts = {"parts": [RISE, constant.rate, linear.rate], "at": [0.2, 0.6]}
    found = [piecewise.rate(x, **parts) for x in (0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)]
    assert found == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0.25])
    assert piecewise.rate(1.0, **parts) == pytest.approx(0)


def test_one_part_is_that_part():
    assert [piecewise.rate(x / 9, parts=[cosine.rate], at=[]) for x in range(10)] == [
        cosine.rate(x / 9) for x in range(10)]  # fmt: skip


def test_a_part_that_looks_at_dev_does_so_and_needs_it():
    parts = {"parts": [RISE, PLATEAU], "at": [0.5]}
    looks = [[0.0, 2.0], [0.3, 1.99]]
    assert piecewise.rate(0.75, looks, **parts) == 0.5 and piecewise.rate(0.75, looks[:1], **parts) == 1
    assert piecewise.needs(parts) == {"dev": "given"} and piecewise.needs({"parts": [RISE]}) == {}
    with pytest.raises(MetierError, match=r"train.schedule.piecewise: needs 'dev'"):
        checked("[linear, plateau]", "[0.5]")


@pytest.mark.parametrize("parts, at, words", [
    ("[linear, cosine]", "[]", "0 places 'at' cut the training into 1, got 2 'parts'"),
    ("[]", "[]", "0 places 'at' cut the training into 1, got 0 'parts'"),
    ("[linear, cosine, linear]", "[0.6, 0.6]", "the places 'at' must rise, got 0.6, 0.6"),
    ("[linear, cosine]", "[1.0]", "'at' must be"), ("[linear, cosine]", "[0.0]", "'at' must be"),
    ("[linear, cosinus]", "[0.5]", "'parts'"), ("{use: linear}", "[]", "'parts' must be a list"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(parts, at, words):
    with pytest.raises(MetierError, match=f"train.schedule.piecewise: .*{words}"):
        checked(parts, at)


def test_a_recipe_may_nest_them():
    checked(
        "[{use: linear, warmup: 1}, {use: piecewise, parts: [constant, {use: restart, period: 0.5}], at: [0.3]}]",
        "[0.1]",
    )


def test_warmup_stable_decay():
    rates = [warmup_stable_decay.rate(x, warmup=0.1, decay=0.2, floor=0.1) for x in (0, 0.05, 0.1, 0.8, 0.9, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.55, 0.1])
    assert warmup_stable_decay.rate(1.0, warmup=0.0, decay=0.0) == 0 != warmup_stable_decay.rate(0.99, decay=0.0)
    text = TEXT.replace("piecewise, parts: PARTS, at: AT", "warmup_stable_decay, warmup: 0.7, decay: 0.5")
    with pytest.raises(MetierError, match=r"'warmup' and 'decay' must be at most 1 together, got 0\.7 and 0\.5"):
        recipe.check(recipe.parse(text))
