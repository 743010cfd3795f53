"""Record files in and out again: formats, shapes, what is refused, and memory that does not grow."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from metier.artefacts import Records
from metier.data.ingest import records
from metier.options import MetierError
from metier.steps import write
from metier.store import Work

Read = Callable[..., Records]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3", "level": 1},
    {"id": "x", "output": "b", "instruction": "a", "input": None, "level": 2.5},
    {"instruction": "ü", "output": "c", "meta": {"k": [1, None]}, "source": "web", "history": [["q", "r"]]},
]


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    def call(*source: Path, **options: Any) -> Records:
        return records.read([str(s) for s in source], work=Work(tmp_path_factory.mktemp("work")), **options)

    return call


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


FORMATS: dict[str, Callable[[list[Any]], bytes]] = {
    "a.jsonl": lambda rows: lines(*rows),
    "a.jsonl.gz": lambda rows: gzip.compress(lines(*rows)),
    "a.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "one.json": lambda rows: json.dumps(rows).encode(),
    "b.json": lambda rows: lines(*rows),
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + lines(*rows),
    "wide.jsonl": lambda rows: lines(*rows).decode().encode("utf-16"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_comes_back_as_it_was(name: str, tmp_path: Path, read: Read) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[name](ALPACA))
    data = read(path, licence="CC0")
    assert data.columns == ["id", "messages", "level", "given_id", "meta", "given_source", "origin"]
    assert data.column("level") == [1.0, 2.5, None] and data.column("meta") == [None, None, '{"k": [1, null]}']
    assert [o["shape"] for o in data.column("origin")] == ["alpaca"] * 3 and len(set(data.column("id"))) == 3
    out = tmp_path / f"out.{name.partition('.')[2]}"
    write.run(data, to=str(out), work=Work(tmp_path / "w"))
    text = (gzip.decompress(out.read_bytes()) if name.endswith(".gz") else out.read_bytes()).decode()
    back = json.loads(text) if ".json" in name and "jsonl" not in name else [json.loads(t) for t in text.splitlines()]
    assert json.dumps(back) == json.dumps(ALPACA)


def test_csv_and_parquet(tmp_path: Path, read: Read) -> None:
    rows = [
        {"prompt": "a, b", "completion": "c\nd", "label": "True"},
        {"prompt": "e", "completion": "", "label": "false"},
    ]
    with (tmp_path / "k.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    data = read(tmp_path / "k.csv")
    assert data.column("scores") == [[1.0], [0.0]] and [o["line"] for o in data.column("origin")] == [2, 4]
    write.run(data, to=str(tmp_path / "out.csv"), work=Work(tmp_path / "w"))
    assert list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))) == rows
    pq.write_table(pa.table({"conversations": [[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]],
                             "turns": pa.array([1], pa.int64())}), tmp_path / "s.parquet")  # fmt: skip
    data = read(tmp_path / "s.parquet")
    assert data.column("messages") == [TALK["messages"]] and data.column("turns") == [1]
    write.run(data, to=str(tmp_path / "out.parquet"), work=Work(tmp_path / "w"))
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "s.parquet"))
    write.run(data, to=str(tmp_path / "talk.tsv"), work=Work(tmp_path / "w"))
    assert read(tmp_path / "talk.tsv").column("messages") == [TALK["messages"]]


def test_windows_text_and_folders(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.csv").write_bytes("text;n\r\ndie Tür öffnet sich, größer als üblich;1\r\n".encode("cp1252"))
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "x"}))
    (tmp_path / "c.jsonl").write_bytes(b" \n")
    (tmp_path / "readme.md").write_text("no records")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines({"text": "x"} | {str(i): i for i in range(99)}))[:60])
    (tmp_path / "e.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "f.jsonl").write_bytes(b"\x00\x01\x02" * 99)
    work = Work(tmp_path / "w")
    data = records.read([str(tmp_path)], work=work)
    assert data.column("text") == ["die Tür öffnet sich, größer als üblich", "x"]
    assert {r["file"]: r["reason"] for r in work.rows() if r["event"] == "dropped"} == {
        "c.jsonl": "empty", "readme.md": "not a record format (.md)", "d.jsonl.gz": "damaged gzip",
        "e.parquet": "damaged parquet", "f.jsonl": "binary",
    }  # fmt: skip
    assert work.rows()[-1]["kept"] + sum(work.rows()[-1]["dropped"].values()) == work.rows()[-1]["files"]


BROKEN = {
    "line 731": ("a.jsonl", lines(*[{"text": str(i)} for i in range(730)]) + b'{"text": "oh\n',
                 "a.jsonl, line 731: not valid JSON: Invalid control character at"),
    "half": ("a.json", b'[{"text": "a"},\n {"text": "b"', r"a.json, line 2: not valid JSON: Expecting ',' delimiter"),
    "no comma end": ("a.json", b'[{"text": "a"}\n', "a.json, line 2: not valid JSON: the list does not end"),
    "more": ("a.json", b'[{"text": "a"}] x', "a.json, line 1: not valid JSON: something stands behind the list"),
    "a word": ("a.json", b'[{"text": "a"},\n\n{"text": nope}' + b" " * 99,
               "a.json, line 3: not valid JSON: Expecting value"),
    "no object": ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl, line 2: must be a JSON object, got list"),
    "no shape": ("a.jsonl", lines({"title": "a", "body": "b"}),
                 "a.jsonl, line 1: fits no shape; it has the keys: title, body"),
    "mixed": ("a.jsonl", lines(TALK, TALK, {"prompt": "a", "completion": "b"}),
              r"a.jsonl, line 3: is prompt_completion, and the file began \(line 1\) with messages"),
    "mixed prompts": ("a.jsonl", lines({"prompt": "a", "completion": "b"}, {"prompt": TALK["messages"][:1],
                      "completion": "b"}), "a.jsonl, line 2: one prompt is text and the other messages"),
    "roles": ("a.jsonl", lines(TALK, {"messages": TALK["messages"][:1] * 2}),
              "a.jsonl, line 2: message 2 is from 'user' and should be from 'assistant'"),
    "twice": ("a.jsonl", b'{"text": "a", "text": "b"}', "a.jsonl, line 1: the key 'text' stands twice"),
    "deep": ("a.jsonl", b'{"text": ' + b"[" * 100_000, "a.jsonl, line 1: nested too deeply"),
    "digits": ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "a.jsonl, line 1: not valid JSON: a number of"),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1: holds half a character"),
    "cells": ("a.csv", b"text,n\na,1\nb\n", "a.csv, line 3: has 1 cells, and the first line names 2 columns"),
    "heads": ("a.csv", b"text,text\na,1\n", "a.csv, line 1: each column needs a name of its own, got text, text"),
    "quote": ("a.csv", b'text,n\na,1\n"b,2\n', "a.csv, line 3: not valid csv: unexpected end of data"),
    "bytes": ("a.parquet", None, "a.parquet, line 1: holds bytes, and records hold text and numbers"),
    "0 bytes": ("a.jsonl", b"", r"no record could be read from .*a.jsonl \(1 empty\)"),
    "other file": ("a.doc", b"x", r"no record could be read from .*a.doc \(1 not a record format \(.doc\)\)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_one_sentence_with_file_and_line(fault: str, tmp_path: Path, read: Read) -> None:
    name, content, sentence = BROKEN[fault]
    if content is None:
        pq.write_table(pa.table({"text": ["a"], "image": [b"\xff"]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MetierError, match=sentence) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_folder_and_nothing_there(tmp_path: Path, read: Read) -> None:
    (tmp_path / "in").mkdir()
    for place in ("in", "nowhere.jsonl"):
        with pytest.raises(MetierError, match=rf"data\.ingest\.records: no file at '.*{place}'"):
            read(tmp_path / place)
        with pytest.raises(MetierError, match=rf"data\.ingest\.records: no file at '.*{place}'"):
            records.checks["read"]([str(tmp_path / place)])


def test_what_does_not_fit_can_be_dropped_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TALK) + b"{broken\n" + lines({"text": "a"}, TALK, {"messages": []}))
    work = Work(tmp_path / "w")
    data = records.read([str(tmp_path / "a.jsonl")], unfit="drop", work=work)
    assert [o["line"] for o in data.column("origin")] == [1, 4]
    dropped = {r["line"]: r["reason"] for r in work.rows() if r["event"] == "dropped"}
    assert sorted(dropped) == [2, 3, 5] and dropped[3].startswith("is text, and the file began")
    assert sum(work.rows()[-1]["unfit"].values()) == 3


def test_a_shape_that_is_said_is_not_guessed(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"prompt": "p", "completion": "a", "label": 1}))
    assert "scores" not in read(tmp_path / "a.jsonl").columns
    assert read(tmp_path / "a.jsonl", shape="kto").column("scores") == [[1.0]]
    assert read(tmp_path / "a.jsonl", shape="free").columns == [
        "id",
        "given_prompt",
        "given_completion",
        "label",
        "origin",
    ]
    with pytest.raises(MetierError, match=r"a\.jsonl, line 1: 'text' must be text, got nothing"):
        read(tmp_path / "a.jsonl", shape="text")


def test_ids_depend_on_name_line_and_row_only(tmp_path: Path, read: Read) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_bytes(lines(TALK, TALK))
    assert read(tmp_path / "a").digest == read(tmp_path / "b").digest
    assert len(set(read(tmp_path / "a").column("id"))) == 2
    (tmp_path / "a" / "x.json").write_text(json.dumps([TALK, TALK, TALK]))
    assert len(set(read(tmp_path / "a" / "x.json").column("id"))) == 3


def test_an_edit_reaches_the_file_and_a_new_column_stands_behind(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*ALPACA))
    data = read(tmp_path / "a.jsonl")
    messages = data.column("messages")
    messages[0][-1]["content"] = "three"
    changed = data.with_column("messages", messages).with_column("split", ["train", None, "test"])
    write.run(changed, to=str(tmp_path / "b.jsonl"), work=Work(tmp_path / "w"))
    back = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert json.dumps(back[0]) == json.dumps(ALPACA[0] | {"output": "three", "split": "train"})
    assert back[1:] == [ALPACA[1], ALPACA[2] | {"split": "test"}]


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=6),
            st.dictionaries(st.sampled_from(["a", "b", "id", "text ", "messages.", "given_id", ""]), VALUE, max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_keys_and_values_survive(rows: list[Any], tmp_path: Path) -> None:  # fmt: skip
    made = [extra | {"text": text} if i % 2 else {"text": text} | extra for i, (text, extra) in enumerate(rows)]
    (tmp_path / "a.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in made).encode())
    data = records.read([str(tmp_path / "a.jsonl")], work=Work(tmp_path / "w"))
    data.save(tmp_path / "saved")
    write.run(Records.load(tmp_path / "saved"), to=str(tmp_path / "b.jsonl"), work=Work(tmp_path / "w"))
    back = [
        json.dumps(json.loads(line)) for line in (tmp_path / "b.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    assert back == [json.dumps(row) for row in made]


@linux
def test_memory_stays_flat_when_the_file_grows(tmp_path: Path) -> None:
    line = lines({"instruction": "Tell of valves. " * 130, "input": "", "output": "They open and close. " * 100})
    found = {}
    for size in (40, 200):  # MB
        folder = tmp_path / str(size)
        (folder / "in").mkdir(parents=True)
        with (folder / "in" / "a.jsonl").open("wb") as stream:
            for _ in range(size * 10**6 // len(line)):
                stream.write(line)
        found[size] = memory.peak("records", folder)
    assert int(found[200][0].split()[0]) == 200 * 10**6 // len(line)
    assert found[200][1] - found[40][1] < 40, found


@linux
def test_one_giant_line_and_a_file_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "a.jsonl").open("wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(200):
            stream.write(b"x" * (1 << 20))
    result, most = memory.peak("records", tmp_path)
    assert result == "MetierError a.jsonl, line 1: longer than 64 million characters"
    assert most < 700
    with (tmp_path / "in" / "a.jsonl").open("wb") as stream:
        stream.truncate(2 << 30)  # sparse
    result, most = memory.peak("records", tmp_path)
    assert result.endswith("(1 binary)") and most < 400
