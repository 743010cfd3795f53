from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from metier.artefacts import Records, Task
from metier.evaluate import compare
from metier.laws import toy as maker
from metier.lm import load
from metier.options import MetierError
from metier.store import Work
from metier.tasks import classification
from metier.train.loop import head, sft
from metier.train.setup import Setup, method


def rows(n=60):
    return [{"id": r["id"], "text": r["text"], "label": "wet" if "river" in r["text"] else "dry"}
            for r in maker.texts(n)]  # fmt: skip


def test_what_is_asked_and_what_is_learnt_are_the_same(tmp_path):
    task = classification.make(Records.from_rows(rows()), template="Text: {text}\nClass:")
    test, train = list(task.part("test")), list(task.part("train"))
    assert len(test) + len(train) == 60 and not {r["id"] for r in test} & {r["id"] for r in train}
    texts = {r["id"]: r for r in rows()}
    for row in [*test, *train]:
        assert (
            row["prompt"] == f"Text: {texts[row['id']]['text']}\nClass:" and row["label"] == texts[row["id"]]["label"]
        )
    assert all(r["choices"][r["gold"]] == f" {r['label']}" and r["choices"] == [" dry", " wet"] for r in test)
    assert all(r["completion"] == f" {r['label']}" for r in train) and "measure" not in train[0]
    task.save(tmp_path)
    assert Task.load(tmp_path).digest == task.digest


def test_the_split_keeps_the_labels_shares_and_follows_its_seed():
    data = Records.from_rows(rows())
    a, b, c = (classification.make(data, test=0.25, seed=s) for s in (1, 1, 2))
    assert a.digest == b.digest != c.digest
    whole = {label: data.column("label").count(label) for label in ("dry", "wet")}
    for task in (a, c):
        assert task.notes["rows"] == {label: round(n * 0.25) for label, n in whole.items()}


def test_groups_stay_together_and_a_split_that_is_there_is_kept():
    grouped = [r | {"group": f"g{i // 4}"} for i, r in enumerate(rows())]
    task = classification.make(Records.from_rows(grouped))
    splits = {}
    for row in task.records:
        splits.setdefault(row["cluster"], set()).add(row["split"])
    assert all(len(s) == 1 for s in splits.values()) and {s for g in splits.values() for s in g} == {"train", "test"}
    given = [r | {"split": ("train", "dev", "test")[i % 3]} for i, r in enumerate(rows())]
    task = classification.make(Records.from_rows(given), test=0.9)
    assert {r["id"]: r["split"] for r in task.records} == {r["id"]: r["split"] for r in given}


def test_f1_is_scikit_learns():
    gold = list("aabbbcadd")
    given = list("abbbccaaa")
    asked = [{"gold": f" {g}", "reply": f" {r}"} for g, r in zip(gold, given, strict=True)]
    found = classification.total("label", asked)
    assert found["macro_f1"] == pytest.approx(f1_score(gold, given, average="macro"))
    each = f1_score(gold, given, average=None, labels=list("abcd"))
    assert [found[f"f1 {c}"] for c in "abcd"] == pytest.approx(list(each))


def test_a_chat_and_a_classifier_answer_the_same_rows(toy, tmp_path):
    task = classification.make(Records.from_rows(rows(120)), seed=3)
    fast = method("train.optimizer", "optimizer", "adamw", lr=1e-2)

    def setup(name):
        return Setup(steps=40, batch=16, parameters="full", optimizer=fast, length=64, work=Work(tmp_path / name))

    sorter = head.train(toy, task.part("train"), setup("head"))
    talker = sft.train(toy, task.part("train"), setup("sft"))
    chats = {"base": load.open(toy), "classifier": load.open(sorter), "chat": load.open(talker)}
    report = compare.measure(chats, [task], work=Work(tmp_path / "report"))
    totals = {name: found["classification"]["label"] for name, found in report.numbers["totals"].items()}
    assert totals["classifier"]["value"] > 0.9 and totals["chat"]["value"] > 0.8 > totals["base"]["value"]
    assert totals["classifier"]["n"] == sum(task.notes["rows"].values())
    for name in totals:
        asked = [r for r in report.rows.to_pylist() if r["chat"] == name]
        expected = f1_score([r["gold"] for r in asked], [r["reply"] for r in asked], average="macro")
        assert totals[name]["macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize("given, values, words", [
    ([{"id": "1", "text": "a"}], {}, "needs records with a column 'label'; they have: id, text"),
    ([{"id": "1", "text": "a", "label": "x"}], {}, "needs two labels or more, got x"),
    (rows(8), {"template": "Label:"}, "'template' must hold '{text}', got 'Label:'"),
    (rows(8), {"test": 0.0}, "there is no record in the split 'test'"),
    ([{"id": "1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": "x"}],
     {}, "record '1' has 2 messages; only a text can be put into classes"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(given, values, words):
    with pytest.raises(MetierError) as error:
        classification.make(Records.from_rows(given), **values)
    assert str(error.value) == f"tasks.classification: {words}"


def test_records_without_label_or_text_are_left_out_and_counted():
    task = classification.make(Records.from_rows([*rows(20), {"id": "n", "text": "a", "label": None},
                                                  {"id": "e", "text": "", "label": "wet"}]))  # fmt: skip
    assert task.notes["left_out"] == 2 and len(task.records) == 20
