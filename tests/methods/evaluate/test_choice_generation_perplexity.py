"""Exact numbers by hand, and the top for perfect answers, of choices, written replies and texts."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from answering import Answering, knowing
from metier import recipe, stats
from metier.artefacts import Measure, Model, Records, Task
from metier.evaluate import choice, compare, generation, perplexity
from metier.lm import load
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Work
from metier.tasks import classification, general
from metier.text import match


def picks() -> Task:
    row = {"split": "test", "measure": "pick", "choices": [" a", " b"], "gold": 0}
    rows = [row | {"id": q, "cluster": q, "prompt": q} for q in ("sure", "torn")]
    return Task("t", "tasks.general", Records.from_rows(rows),
                {"pick": Measure("choose", "domain", "accuracy", "higher", "picks", "w")})  # fmt: skip


def test_choices_by_hand(tmp_path: Path) -> None:
    p = {"sure": {" a": 0.9, " b": 0.1}, "torn": {" a": 0.4, " b": 0.6}}
    chat = Answering("x", lambda q, c: math.log(p[q][c]) - 5)
    found = choice.measure({"m": chat}, [picks()], bins=5, work=Work(tmp_path))
    totals = {k: v["value"] for k, v in found.numbers["totals"]["m"]["t"].items()}
    assert totals == {
        "pick": 0.5, "pick.probability": pytest.approx(0.65), "pick.confidence": pytest.approx(0.75),
        "pick.brier": pytest.approx((0.02 + 0.72) / 2),
    }  # fmt: skip
    told = found.numbers["calibration"]["m"]["t"]["pick"]
    assert told["ece"] == pytest.approx((0.1 + 0.6) / 2) and told["auroc"] == 1.0
    assert set(found.numbers["tasks"]["t"]["measures"]) == set(totals)


def test_choices_agree_with_compare_and_lengths_can_be_taken_out(tmp_path: Path) -> None:
    task = general.make(choice=12, prose=2, arithmetic=6, grammar=6, forms=2)
    chat = Answering("x", lambda p, c: -float(sum(c.encode()) % 97))
    plain = compare.measure({"m": chat}, [task], work=Work(tmp_path / "1")).numbers["totals"]["m"]["general"]
    found = choice.measure({"m": chat}, [task], work=Work(tmp_path / "2")).numbers["totals"]["m"]["general"]
    assert {m: found[m] for m in ("choice", "arithmetic", "grammar")} == {m: plain[m] for m in found if m in plain}
    best = choice.measure({"m": knowing(task)}, [task], work=Work(tmp_path / "3")).numbers["totals"]["m"]["general"]
    assert best["choice"]["value"] == 1 and best["choice.brier"]["value"] < 0.2
    one = picks()
    rows = [r | {"choices": [" a", " much longer"]} for r in one.records]
    longer = Task("t", "tasks.general", Records.from_rows(rows), one.measures)
    flat = Answering("flat", lambda p, c: -2.0 if c == " a" else -3.0)
    for way, value in (("task", 1.0), ("none", 1.0), ("bytes", 0.0)):
        told = choice.measure({"m": flat}, [longer], normalise=way, work=Work(tmp_path / way))
        assert told.numbers["totals"]["m"]["t"]["pick"]["value"] == value


def test_totals_that_are_no_means_come_from_the_task(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "text": f"text {i}", "label": "rare" if i == 0 else "often", "split": "test"} for i in range(4)
    ]
    task = classification.make(Records.from_rows(rows))
    chat = Answering("x", lambda p, c: 0.0 if c == " often" else -1.0)
    for way in (compare, choice):
        told = way.measure({"m": chat}, [task], work=Work(tmp_path / way.__name__)).numbers["totals"]["m"]
        assert told["classification"]["label"]["value"] == 0.75
        assert told["classification"]["label"]["macro_f1"] == pytest.approx((0 + 6 / 7) / 2)


def forms() -> Task:
    return general.make(choice=1, prose=1, arithmetic=0, grammar=0, forms=6)


def test_written_replies_agree_with_compare_and_refusals_are_told_apart(tmp_path: Path) -> None:
    task, chat = forms(), Answering("x", says=lambda q: "word", sure=lambda q: 0.5)
    plain = compare.measure({"m": chat}, [task], only=["form"], work=Work(tmp_path / "1")).numbers["totals"]["m"]
    found = generation.measure({"m": chat}, [task], work=Work(tmp_path / "2"))
    totals = found.numbers["totals"]["m"]["general"]
    assert totals["form"] == plain["general"]["form"] and totals["form.confidence"]["value"] == 0.5
    told = found.numbers["answered"]["m"]["general"]["form"]
    assert told["refused"] == 0 and told["n"] == 6 and told["grades"]["form"] == pytest.approx(totals["form"]["value"])

    class Refusing(Answering):
        def reply(self, *given: object) -> list[Reply]:  # type: ignore[override]
            return [
                Reply("No.", 2, -1.0, ("length", "stop")[i % 2], 0.1, refused=i % 2 == 0)
                for i, _ in enumerate(given[0])
            ]  # type: ignore[arg-type]

    half = generation.measure({"m": Refusing("y")}, [task], work=Work(tmp_path / "3")).numbers
    assert half["answered"]["m"]["general"]["form"]["refused"] == 0.5
    told, stops = half["answered"]["m"]["general"]["form"], half["totals"]["m"]["general"]["stops"]["value"]
    assert told["n"] == 3 and told["grades"]["stops"] == 1 and stops == 0.5
    assert half["totals"]["m"]["general"]["form.refused"]["value"] == 0.5


def test_samples_are_rows_of_their_own_in_the_cluster_of_their_question(tmp_path: Path, toy: Model) -> None:
    task, chats = forms(), {"m": load.open(toy)}
    report = generation.measure(chats, [task], n=3, temperature=1.0, max_tokens=4, work=Work(tmp_path))
    rows = [r for r in report.rows.to_pylist() if r["measure"] == "form"]
    assert len(rows) == 18 and len({r["id"] for r in rows}) == 18 and len({r["cluster"] for r in rows}) == 6
    assert len({r["reply"] for r in rows}) > 6
    asked = Answering(chats["m"].digest)
    again = generation.measure({"m": asked}, [task], n=3, temperature=1.0, max_tokens=4, work=Work(tmp_path))
    assert again.digest == report.digest and asked.conversations == []
    generation.measure({"m": asked}, [task], n=3, temperature=0.5, max_tokens=4, work=Work(tmp_path))
    assert len(asked.conversations) == 6


def test_metrics_against_a_reference(tmp_path: Path) -> None:
    row = {
        "id": "q",
        "split": "test",
        "measure": "questions",
        "cluster": "q",
        "prompt": "?",
        "reference": "The cat sat.",
    }
    how = {"questions": Measure("write", "domain", "F1", "higher", "q", "w")}
    task = Task("domain", "tasks.documents", Records.from_rows([row]), how)
    chat = Answering("x", says=lambda q: "cat sat")
    found = generation.measure({"m": chat}, [task], metrics=["exact", "f1"], work=Work(tmp_path))
    totals = found.numbers["totals"]["m"]["domain"]
    assert totals["questions.exact"]["value"] == 1 and totals["questions.f1"]["value"] == pytest.approx(0.8)
    assert match.exact("a dog", "the cat") == 0


def test_chrf_by_hand() -> None:
    pytest.importorskip("sacrebleu")
    chrf = generation.closeness_of(["chrf"])["chrf"]
    # runs of 1, 2 and 3 characters: precision 1, recall (3/4 + 2/3 + 1/2) / 3; longer runs the reply has none of
    recall = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert chrf("a bc", "abc d") == pytest.approx(5 * recall / (4 + recall))
    assert chrf("abc", "abc") == 1 and chrf("abc", "xyz") == 0 and chrf("", "abc") == 0


def test_chrf_without_its_extra_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # as if it were not installed
    text = "base: model\ntask: tasks.general\nr: {use: evaluate.generation, chats: {b: $base}, tasks: [$task]"
    assert recipe.check(recipe.parse(text + ", metrics: [f1]}"))
    sentence = 'recipe, line 3: evaluate.generation: chrf needs sacrebleu: pip install "metier[eval]"'
    with pytest.raises(MetierError) as error:
        recipe.check(recipe.parse(text + ", metrics: [f1, chrf]}"))
    assert str(error.value) == sentence


def test_texts_by_hand(tmp_path: Path) -> None:
    data = Records.from_rows([
        {"id": "a", "text": "four", "group": "g"}, {"id": "b", "text": "twelve bytes", "group": "g"},
        {"id": "c", "prompt": "before ", "completion": "it", "group": None}, {"id": "d", "text": ""},
    ])  # fmt: skip
    chat = Answering("x", lambda p, c: -math.log(2) * len(c))
    found = perplexity.measure({"m": chat}, data, work=Work(tmp_path))
    totals = found.numbers["totals"]["m"]["texts"]
    assert totals["bits_per_byte"] == {"value": pytest.approx(1), "n": 3}
    assert totals["nats_per_token"]["perplexity"] == pytest.approx(2 ** (18 / 4))
    assert chat.asked == [("", "four"), ("", "twelve bytes"), ("before ", "it")]
    assert [r["cluster"] for r in found.rows.to_pylist()][::2] == ["g", "g", "c"]


def test_a_smaller_window_foresees_less_and_is_measured_anew(tmp_path: Path, toy: Model) -> None:
    data = Records.from_rows([{"id": "a", "text": "river bridge valve meter " * 12}])
    found = [perplexity.measure({"m": load.open(toy)}, data, window=w, work=Work(tmp_path)) for w in (None, 8, 8)]
    bits = [f.numbers["totals"]["m"]["texts"]["bits_per_byte"]["value"] for f in found]
    assert bits[0] != bits[1] == bits[2] and found[1].digest == found[2].digest
    tokens = [f.rows.to_pylist()[1]["weight"] for f in found]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("way", [choice, generation])
def test_nothing_to_ask_is_an_error(way: object, tmp_path: Path) -> None:
    rows = [{"id": "a", "split": "test", "measure": "m", "cluster": "a", "prompt": "", "text": "t"}]
    task = Task("t", "tasks.general", Records.from_rows(rows), {"m": Measure("read", "domain", "u", "lower", "t", "w")})
    with pytest.raises(MetierError, match=r"no chat, no task or no row to (choose|write)"):
        way.measure({"m": Answering("a")}, [task], work=Work(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(MetierError, match="no text to read"):
        perplexity.measure({"m": Answering("a")}, Records.from_rows([{"id": "a", "text": ""}]), work=Work(tmp_path))


def test_calibration_and_auroc_by_hand() -> None:
    assert stats.calibration_error([1.0, 1.0, 0.5, 0.5], [1, 0, 1, 0], 10) == pytest.approx(0.25)
    assert [b["n"] for b in stats.reliability([0.05, 0.1, 1.0], [0, 0, 1], 10)] == [1, 1, 1]
    assert stats.auroc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(3.5 / 4)
    assert stats.auroc([0.1, 0.2], [1, 1]) is None
    assert stats.risk_bound(0, 29, 0.05) == pytest.approx(1 - 0.05 ** (1 / 29)) and stats.risk_bound(3, 3, 0.05) == 1
    assert stats.trusted_from([], [], 0.1) is None
    assert stats.trusted_from(np.ones(500), np.ones(500), 0.05) == 1.0
