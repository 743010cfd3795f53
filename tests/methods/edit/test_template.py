from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metier.artefacts import Records
from metier.data.edit import template
from metier.options import MetierError
from metier.store import Work

DATA = Records.from_rows([
    {"id": "1", "name": "valve", "does": "opens", "parts": ["seat", "stem"], "two words": "x", "text": "old"},
    {"id": "2", "name": "pump", "does": None, "parts": [], "two words": "y", "text": "old"},
])  # fmt: skip


@pytest.fixture
def edit(tmp_path: Path) -> Any:
    return lambda **options: template.edit(DATA, work=Work(tmp_path), **options)


def test_forms(edit: Any) -> None:
    made = edit(text="{{ name }}: {% if does %}it {{ does }}{% else %}unknown{% endif %}, {{ record['two words'] }}")
    assert made.column("text") == ["valve: it opens, x", "pump: unknown, y"] and made.column("id") == ["1", "2"]
    made = edit(prompt="What does a {{ name }} do?", reply="It {{ does }}.", system="Be short.")
    assert made.column("messages")[0] == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "What does a valve do?"},
        {"role": "assistant", "content": "It opens."},
    ]  # fmt: skip
    assert "text" not in made.columns and made.column("name") == ["valve", "pump"]
    assert edit(prompt="{% for p in parts %}{{ p }} {% endfor %}?").column("prompt")[1][0]["content"] == "?"
    assert made.digest == edit(prompt="What does a {{ name }} do?", reply="It {{ does }}.", system="Be short.").digest


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": "{{ nam }}"}, "'text': records have no column 'nam'; they have: id, name"),
        ({"text": "a\n{% if %}"}, "'text', line 2: Expected an expression"),
        ({"text": "{{ name.__class__.mro() }}"}, "'text' fails at record '1': access to attribute '__class__'"),
        ({"text": "{{ name | random }}"}, "'text', line 1: No filter named 'random'"),
        ({"text": "{{ lipsum() }}"}, "records have no column 'lipsum'"),
        ({"text": "{{ 1 / 0 }}"}, "'text' fails at record '1': division by zero"),
        ({"text": "{{ does }}"}, "record '2': its 'text' comes out empty"),
        ({"text": "a", "prompt": "b"}, "needs either 'text', or 'prompt'"),
        ({"reply": "b"}, "needs either 'text', or 'prompt'"),
    ],
)
def test_what_is_wrong_is_one_sentence(edit: Any, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(MetierError, match=r"data\.edit\.template: ") as error:
        edit(**options)
    assert sentence in str(error.value)


def test_empty_ones_may_be_dropped(tmp_path: Path) -> None:
    work = Work(tmp_path)
    assert template.edit(DATA, text="{{ does }}", blank="drop", work=work).column("id") == ["1"]
    assert work.rows()[-1] == {"event": "kept", "read": 2, "kept": 1, "dropped": {"text is empty": 1}}
    with pytest.raises(MetierError, match="nothing is left of 2 records"):
        template.edit(DATA, text=" ", blank="drop", work=work)


def test_conversations_and_preferences_become_plain_text(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Which {{ river }}?"}]
    told = Records.from_rows([
        {"id": "1", "messages": [*asked, {"role": "assistant", "content": "The Gru."}]},
        {"id": "2", "prompt": asked, "replies": ["None.", "The Elm."], "scores": [0.0, 1.0]},
        {"id": "3", "messages": asked},
    ])  # fmt: skip
    work = Work(tmp_path)
    made = template.edit(told, text="{{ plain }}", blank="drop", work=work)
    assert made.column("text") == ["Which {{ river }}?\nThe Gru.", "Which {{ river }}?\nThe Elm."]
    assert made.columns == ["id", "text"] and work.rows()[-1]["dropped"] == {"text is empty": 1}
