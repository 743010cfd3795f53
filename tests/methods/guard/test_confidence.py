"""Unsure replies are withheld, in the guard's words; the threshold found on dev rows keeps its promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from answering import Answering
from metier import stats
from metier.artefacts import Report
from metier.evaluate import _ask
from metier.guard import confidence
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Work

ASKED = [[{"role": "user", "content": q}] for q in ("0.9", "0.2", "0.5")]


def chat() -> Answering:
    return Answering("a", says=lambda q: f"said {q}", sure=float)


def test_replies_below_are_withheld_and_keep_their_confidence() -> None:
    guarded = confidence.wrap(chat(), at_least=0.5, says="No.")
    found = guarded.reply(ASKED)
    assert [(r.text, r.refused, r.confidence) for r in found] == [
        ("said 0.9", False, 0.9), ("No.", True, 0.2), ("said 0.5", False, 0.5)
    ]  # fmt: skip
    twice = confidence.wrap(guarded, at_least=0.8, says="Never.").reply(ASKED)
    assert [r.text for r in twice] == ["said 0.9", "No.", "Never."]
    assert guarded.logprobs(["p"], ["abc"]) == chat().logprobs(["p"], ["abc"])
    assert guarded.digest not in (chat().digest, confidence.wrap(chat(), at_least=0.4).digest)


def test_without_a_confidence_the_tokens_tell() -> None:
    bare = Answering("a")
    assert confidence.wrap(bare, at_least=0.7).reply(ASKED)[0].confidence == pytest.approx(math.exp(-1 / 3))
    assert confidence.wrap(bare, at_least=0.75).reply(ASKED)[0].refused
    assert confidence.wrap(bare, at_least=0) is bare
    assert Reply("", 0, 0.0, "length").certainty == 0
    bare.reply = lambda *_: [Reply("x", 1, None, "stop")]  # type: ignore[method-assign]
    with pytest.raises(MetierError, match="tells no log-probability"):
        confidence.wrap(bare, at_least=0.5).reply(ASKED)
    with pytest.raises(MetierError, match="needs 'at_least', or the part"):
        confidence.wrap(bare)


def graded(sure: np.ndarray, right: np.ndarray) -> Report:
    rows = [
        {"task": "t", "chat": "m", "id": str(i), "cluster": str(i), "weight": 1.0, "measure": name, "value": float(v)}
        for i, pair in enumerate(zip(right, sure, strict=True))
        for name, v in zip(("form", "form.confidence"), pair, strict=True)
    ]
    return Report({}, pa.Table.from_pylist(rows, _ask.SCHEMA))


def test_the_threshold_found_keeps_the_risk_on_new_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    broken = []
    for trial in range(60):
        sure, fresh = rng.random(1000), rng.random(4000)
        report = graded(sure, rng.random(1000) < sure)
        part = confidence.fit(report, metric="t.form", risk=0.3, work=Work(tmp_path / str(trial)))
        at_least = part.notes["at_least"]
        assert at_least == stats.trusted_from(sure, [r["value"] for r in report.rows.to_pylist()[::2]], 0.3)
        broken.append(1 - (rng.random(4000) < fresh)[fresh >= at_least].mean() > 0.3)
    assert np.mean(broken) <= 0.05
    assert 0.4 < at_least < 0.9
    assert confidence.wrap(chat(), part).reply(ASKED)[1].refused


def test_a_risk_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(MetierError, match=r"no confidence keeps the risk under 0.1: of 4 replies 4 are right"):
        confidence.fit(graded(np.linspace(0.1, 0.9, 4), np.ones(4)), metric="t.form", work=Work(tmp_path))
    with pytest.raises(MetierError, match=r"did you mean 't.form'"):
        confidence.fit(graded(np.ones(4), np.ones(4)), metric="t.from", work=Work(tmp_path))
