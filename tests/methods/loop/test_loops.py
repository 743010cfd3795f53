from __future__ import annotations

import pytest

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import load
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.store import Work
from metier.train.loop import pretrain, sft
from metier.train.setup import Setup, method

FAST = method("train.optimizer", "optimizer", "adamw", lr=2e-2)


def test_sft_learns_one_answer_by_heart(toy, tmp_path):
    turns = [{"role": "user", "content": "seven"}, {"role": "assistant", "content": "north bridge falls"}]
    data = Records.from_rows([{"id": "1", "messages": turns}])
    made = sft.train(toy, data, Setup(steps=40, parameters="full", optimizer=FAST, work=Work(tmp_path)))
    reply = load.open(made).reply([turns[:1]], Sampling(max_tokens=20))[0]
    assert reply.text.strip() == "north bridge falls" and reply.finish == "stop"


def test_pretrain_learns_a_text(toy, tmp_path):
    data = Records.from_rows([{"id": "1", "text": "the meter rises before the valve falls " * 8}])
    made = pretrain.train(toy, data, Setup(steps=60, length=64, optimizer=FAST, work=Work(tmp_path)))
    asked = ["the meter rises before the valve falls"]
    before, after = (load.open(m).logprobs([""], asked)[0].sum for m in (toy, made))
    assert after > before / 3 and made.notes["method"] == "train.loop.pretrain"


def test_records_without_a_reply_in_reach_are_dropped_with_a_reason(toy, tmp_path):
    long = [{"role": "user", "content": "river " * 60}, {"role": "assistant", "content": "bridge"}]
    rows = [*maker.questions(5), {"id": "long", "messages": long}, {"id": "asked", "messages": long[:1]}]
    sft.train(toy, Records.from_rows(rows), Setup(steps=1, length=32, work=Work(tmp_path)))
    logged = next(row for row in Work(tmp_path).rows() if "kept" in row)
    assert logged["kept"] == 5 and logged["dropped"] == {"no reply within 32 tokens": 1, "nothing to learn from": 1}
    with pytest.raises(MetierError, match="no record to train on"):
        sft.train(toy, Records.from_rows(rows[5:]), Setup(steps=1, length=32, work=Work(tmp_path / "x")))
