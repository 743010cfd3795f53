from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier import masks
from metier.lm import load, tokens
from metier.lm.loss import IGNORED
from metier.options import MetierError

TALKS = [
    [("system", "be brief"), ("user", "river"), ("assistant", "falls")],
    [("user", "and"), ("assistant", "rises"), ("user", "the valve"), ("assistant", "opens")],
    [("user", "a " * 300), ("assistant", "after")],  # its reply is cut off
    [("user", "north")],
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in TALKS]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_shown_is_what_is_learnt(file: Path, toy: object) -> None:
    shown, totals = masks.rows(file, str(toy.path), count=10, length=100)
    assert [[text for text, learnt in one.pieces if learnt] for one in shown] == [
        ["falls<|im_end|>"], ["rises<|im_end|>", "opens<|im_end|>"], [], []
    ]  # fmt: skip
    assert [one.dropped for one in shown] == [None, None, "no reply within 100 tokens", "nothing to learn from"]
    tokenizer = load.tokenizer_of(toy)
    turns = [{"role": r, "content": c} for r, c in TALKS[1]]
    ids, labels = tokens.supervised(tokenizer, {"id": "a", "messages": turns})
    assert "".join(text for text, _ in shown[1].pieces) == tokenizer.decode(ids)
    assert (shown[1].tokens, shown[1].supervised) == (len(ids), sum(b != IGNORED for b in labels))
    assert totals["records"] == 4 and totals["supervised"] == shown[0].supervised + shown[1].supervised
    assert totals["dropped"] == {"no reply within 100 tokens": 1, "nothing to learn from": 1}
    assert shown[2].tokens == 100 and shown[2].cut > 0


def test_marks_without_a_terminal_and_json(file: Path, toy: object, capsys: pytest.CaptureFixture[str]) -> None:
    masks.show(file, str(toy.path), count=1, length=100)
    told = capsys.readouterr().out
    assert "<|im_start|>assistant\n⟦falls<|im_end|>⟧\n" in told and "⟦opens" not in told
    assert "tokens are learnt" in told and "4 records" in told and "1 dropped: nothing to learn from" in told
    masks.show(file, str(toy.path), count=2, length=100, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["records"]) == 2 and facts["records"][0]["pieces"][1] == ["falls<|im_end|>", True]


@pytest.mark.parametrize(
    ("name", "text", "learnt"),
    [
        ("alpaca.json", '[{"instruction": "river", "input": "", "output": "falls"}]', ["falls<|im_end|>"]),
        ("pairs.csv", "prompt,completion\nriver, falls\n", [" falls<|im_end|>"]),
        ("better.jsonl", '{"prompt": "river", "chosen": "falls", "rejected": "up"}', ["falls<|im_end|>"]),
    ],
)
def test_every_shape_is_shown(name: str, text: str, learnt: list[str], tmp_path: Path, toy: object) -> None:
    (tmp_path / name).write_text(text)
    shown, _ = masks.rows(tmp_path / name, str(toy.path))
    assert [text for text, is_learnt in shown[0].pieces if is_learnt] == learnt
    if name == "better.jsonl":
        assert [one.id.rpartition(" (")[2] for one in shown] == ["score 1)", "score 0)"]


def test_a_file_that_cannot_be_shown_is_one_sentence(tmp_path: Path, toy: object) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "assistant", "content": "hi"}]}')
    with pytest.raises(MetierError, match=r"a\.jsonl, line 1: message 1 is from 'assistant' and should be from 'user'"):
        masks.rows(tmp_path / "a.jsonl", str(toy.path))
