from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metier import recipe
from metier.options import MetierError

CLOSED = '''
"""A model that only talks.

Options:
    name: whatever it is called.
"""

from metier.lm.chat import Chat

GIVES = "text"


def run(*, name: str = "closed") -> Chat:
    raise NotImplementedError
'''
RECIPE = """
base: model
closed: {use: closed_model}
general: {use: tasks.general}
report: {use: evaluate.compare, chats: {base: $base, closed: $closed}, tasks: [$general]}
"""


@pytest.fixture(autouse=True)
def closed(tmp_path: Path, own_methods: Callable[[Path], None]) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "closed_model.py").write_text(CLOSED, encoding="utf-8")
    own_methods(tmp_path)


def check(text: str, **changes: object) -> None:
    recipe.check(recipe.parse(text, "r.yaml", changes), "r.yaml")


def test_a_closed_model_is_refused_where_log_probabilities_are_needed() -> None:
    with pytest.raises(MetierError) as error:
        check(RECIPE)
    sentence = "evaluate.compare: 'bits_per_byte' needs a model that gives logits, and 'closed' gives text"
    assert str(error.value) == f"r.yaml, line 5: {sentence}"


def test_a_closed_model_may_be_asked_what_it_can_answer() -> None:
    check(RECIPE, **{"report.only": ["forms"]})


def test_a_wrap_gives_no_more_than_the_chat_inside() -> None:
    text = RECIPE.replace(
        "general:",
        "reader: {use: infer.context.passages, chat: $closed, data: {use: data.ingest.general_text}}\ngeneral:",
    )
    with pytest.raises(MetierError, match="'reader' gives text"):
        check(text, **{"report.chats": {"reader": "$reader"}})


def test_a_closed_model_cannot_be_trained() -> None:
    with pytest.raises(MetierError, match="'model' needs Model, got Chat"):
        check("closed: closed_model\nx: {use: train.loop.pretrain, model: $closed, data: data.ingest.general_text}")
