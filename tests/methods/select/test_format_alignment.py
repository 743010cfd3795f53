from __future__ import annotations

from pathlib import Path

import pytest

from metier.artefacts import Records
from metier.data.select import format_alignment
from metier.laws import toy as maker
from metier.lm import load, tokens
from metier.options import MetierError
from metier.steps import keep
from metier.store import Work


def data() -> Records:
    asked = [{"role": "user", "content": "north or south"}]
    return Records.from_rows([
        *maker.questions(8),
        {"id": "pair", "prompt": asked, "replies": ["valve", "north of the bridge"], "scores": [0.0, 1.0]},
        {"id": "silent", "messages": asked},
    ])  # fmt: skip


def test_the_score_is_the_ratio_for_easy_records_and_below_it_for_the_others(toy, tmp_path: Path) -> None:
    rows = {row["id"]: row for row in format_alignment.score(data(), toy, easy=0.33, work=Work(tmp_path))}
    chat, tokenizer = load.open(toy), load.tokenizer_of(toy)
    given = {r["id"]: (r["messages"][:1], r["messages"][1]["content"]) for r in maker.questions(8)}
    given["pair"] = ([{"role": "user", "content": "north or south"}], "north of the bridge")
    for name, (asked, reply) in given.items():
        text, framed = (chat.logprobs([p], [reply])[0] for p in
                        (asked[0]["content"] + "\n", tokens.render(tokenizer, asked, reply=True)))  # fmt: skip
        assert rows[name]["plain"] == pytest.approx(-text.sum / text.tokens, abs=1e-5)
        assert rows[name]["templated"] == pytest.approx(-framed.sum / framed.tokens, abs=1e-5)
    easy = sorted(given, key=lambda name: rows[name]["plain"])[:3]
    for name in given:
        row = rows[name]
        assert row["score"] == (row["templated"] / row["plain"] if name in easy else -row["plain"])
    assert min(rows[n]["score"] for n in easy) > max(rows[n]["score"] for n in given if n not in easy)
    assert rows["silent"]["reason"] == "no reply" and rows["silent"]["score"] is None
    scores = format_alignment.score(data(), toy, easy=0.33, work=Work(tmp_path / "2"))
    kept = keep.run(data(), scores, share=1 / 3, work=Work(tmp_path / "3"))
    assert set(kept.column("id")) == set(easy)


def test_records_without_a_reply_are_no_examples(toy, tmp_path: Path) -> None:
    silent = Records.from_rows([{"id": "1", "messages": [{"role": "user", "content": "a"}]}])
    with pytest.raises(MetierError, match=r"^data\.select\.format_alignment: no record has a reply"):
        format_alignment.score(silent, toy, work=Work(tmp_path))
