"""split of records that belong to no document, and the road from them to a trained and measured model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from metier import recipe, runner
from metier.artefacts import Model, Records, Row
from metier.options import MetierError
from metier.steps import split
from metier.store import Store, Work

SYSTEM = "You are an expert of pumps and valves who gives short clear answers and never says more than was asked."


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


def words(seed: int, n: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(10**6)}" for _ in range(n))


def talk(i: int, asked: str | None = None, **columns: Any) -> Row:
    turns = [("system", SYSTEM), ("user", asked or words(i, 20)), ("assistant", words(10**6 + i, 40))]
    return {"id": f"r{i:02}", "messages": [{"role": r, "content": c} for r, c in turns]} | columns


def test_each_record_is_its_own_document_and_a_shared_system_message_ties_nothing(work: Work) -> None:
    made = split.run(Records.from_rows(talk(i) for i in range(60)), work=work)
    assert len(made) == 60 and made.column("group") == made.column("id")
    counts = {s: made.column("split").count(s) for s in ("train", "dev", "test")}
    assert counts["test"] == pytest.approx(12, abs=2) and counts["dev"] == pytest.approx(6, abs=2)
    told = work.rows()[-1]
    assert told["documents"] == told["groups"] == 60 and told["residual"] == {"test": 0.0, "dev": 0.0}


def test_what_records_share_keeps_them_together_and_what_repeats_goes_with_a_reason(work: Work) -> None:
    rows = [talk(i) for i in range(40)]
    rows += [talk(40 + i, asked=words(i, 20)) for i in range(10)]  # the questions of the first ten, answered anew
    rows += [rows[20] | {"id": "again"}]
    made = split.run(Records.from_rows(rows), work=work)
    group = dict(zip(made.column("id"), made.column("group"), strict=True))
    assert all(group[f"r{40 + i}"] == group[f"r{i:02}"] for i in range(10)) and len(set(group.values())) == 40
    # of two equal ones the first by name stays
    assert {r["id"]: r["reason"] for r in work.rows() if r["event"] == "dropped"} == {
        "r20": "document repeats text of again"
    }


@pytest.mark.parametrize("form", [
    lambda i: {"prompt": words(i, 20), "completion": words(-i - 1, 9)},
    lambda i: {"prompt": [{"role": "user", "content": words(i, 20)}], "replies": ["yes", "no"], "scores": [1.0, 0.0]},
    lambda i: {"text": words(i, 30)},
])  # fmt: skip
def test_every_form_of_a_record_is_split(form: Any, work: Work) -> None:
    data = Records.from_rows({"id": f"r{i}"} | form(i) for i in range(30))
    assert set(split.run(data, work=work).column("split")) == {"train", "dev", "test"}
    assert work.rows()[-1]["groups"] == 30


def test_records_beside_documents_are_each_their_own(work: Work) -> None:
    chunks = [{"id": f"c{i}", "document": f"d{i // 2}", "text": words(i, 60)} for i in range(20)]
    made = split.run(Records.from_rows(chunks + [talk(i, document=None) for i in range(20, 40)]), work=work)
    assert set(made.column("group")) == {f"d{i}" for i in range(10)} | {f"r{i}" for i in range(20, 40)}


def test_records_of_one_value_stay_on_one_side(work: Work) -> None:
    data = Records.from_rows(talk(i, author=i // 6) for i in range(60))
    made = split.run(data, by="author", work=work)
    sides: dict[int, set[str]] = {}
    for author, side in zip(made.column("author"), made.column("split"), strict=True):
        sides.setdefault(author, set()).add(side)
    assert len(sides) == 10 and all(len(found) == 1 for found in sides.values())
    with pytest.raises(MetierError, match="records have no column 'writer'; they have: id, messages, author"):
        split.run(data, by="writer", work=work)
    few = Records.from_rows(talk(i, author=i // 20) for i in range(60))
    with pytest.raises(MetierError, match=r"^split: 'by' makes fewer than 5 groups of 'author' that share no text"):
        split.run(few, by="author", work=work)


def test_what_cannot_be_split_is_one_sentence(work: Work) -> None:
    with pytest.raises(MetierError, match=r"^split: the records hold no text, messages or prompt; they have: id, n$"):
        split.run(Records.from_rows([{"id": "a", "n": 1}, {"id": "b", "n": 2}]), work=work)
    preamble = words(1, 200)
    alike = Records.from_rows({"id": f"r{i}", "text": f"{preamble} {words(i + 2, 20)}"} for i in range(40))
    with pytest.raises(MetierError, match=r"no text is left for dev; .*\(dropped: \d+ × dev chunk repeats text\b"):
        split.run(alike, work=work)


ROAD = """
base:    {use: model, path: %s}
read:    {use: data.ingest.records, source: [talks.jsonl]}
divided: {use: split, data: $read}
learnt:  {use: where, data: $divided, column: split, equals: train}
watched: {use: where, data: $divided, column: split, equals: dev}
held:    {use: where, data: $divided, column: split, equals: test}
expert:  {use: train.loop.sft, model: $base, data: $learnt, dev: $watched, steps: 2, batch: 4}
report:  {use: evaluate.perplexity, chats: {base: $base, expert: $expert}, data: $held}
"""


def test_records_split_trained_and_measured(tmp_path: Path, toy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": words(i, 15), "completion": " " + words(-i - 1, 9)} for i in range(40)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = runner.run(recipe.check(recipe.parse(ROAD % toy.path)), Store(tmp_path / "home"))
    held, learnt = (set(done[name].open().column("id")) for name in ("held", "learnt"))
    assert held and learnt and not held & learnt
    totals = done["report"].open().numbers["totals"]
    assert totals["base"]["texts"]["bits_per_byte"]["n"] == len(held)
    assert totals["base"]["texts"]["bits_per_byte"]["value"] != totals["expert"]["texts"]["bits_per_byte"]["value"]
