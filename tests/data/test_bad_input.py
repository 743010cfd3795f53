"""Documents on a bad day: what cannot be read is named, and memory does not grow with what lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import memory
from command import as_a_user
from metier.data.ingest import _files, documents, records
from metier.options import MetierError
from metier.store import Work

PROSE = "The valve opens when the pressure in the chamber passes the limit that the operator has set before. "
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
READ = """
import json, sys
from pathlib import Path
from metier.data.ingest import documents, records
from metier.options import MetierError
from metier.store import Work
kind, folder, *source = sys.argv[1:]
method, work = {"documents": documents, "records": records}[kind], Work(Path(folder))
try:
    found = sorted({row["origin"]["file"] for row in method.read(source, work=work)})
except MetierError as error:
    found = str(error)
print(json.dumps([found, {row["file"]: row["reason"] for row in work.rows() if row["event"] == "dropped"}]))
"""


def read_by_a_user(kind: str, place: Path, *source: Path) -> tuple[object, dict[str, str]]:
    command = [sys.executable, "-c", READ, kind, str(place / "work"), *map(str, source)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=as_a_user, timeout=200)
    assert done.returncode == 0, done.stderr
    found, dropped = json.loads(done.stdout)
    return found, dropped


@linux
def test_a_file_that_cannot_be_opened_or_read_is_named(tmp_path: Path, read) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.txt").write_text(PROSE)
    (folder / "broken.txt").symlink_to("/proc/self/mem")  # opens and gives an error, whoever asks
    (folder / "closed.txt").write_text(PROSE)
    (folder / "closed.txt").chmod(0)
    data, dropped = read(folder)
    assert dropped.pop("broken.txt") == "cannot be opened (Input/output error)"
    assert dropped == ({} if os.access(folder / "closed.txt", os.R_OK) else
                       {"closed.txt": "cannot be opened (Permission denied)"})  # fmt: skip
    assert "good.txt" in {r["origin"]["file"] for r in data} and _files.fingerprint([str(folder)])
    for name in ("good.txt", "closed.txt"):
        (folder / name).unlink()
    with pytest.raises(MetierError, match=r"no text could be read from .*in \(1 cannot be opened \(Input/output error"):
        read(folder)
    (folder / "broken.txt").rename(folder / "broken.jsonl")
    with pytest.raises(
        MetierError, match=r"no record could be read from .*in \(1 cannot be opened \(Input/output error"
    ):
        records.read([str(folder)], work=Work(tmp_path / "w"))


@linux
def test_what_one_may_not_enter_or_look_at_is_named(tmp_path: Path) -> None:
    for name in ("in/good.txt", "in/shut/a.txt", "in/listed/a.txt", "rows/good.jsonl", "rows/shut/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": PROSE}))
    for name, mode in (("in/shut", 0), ("in/listed", 0o444), ("rows/shut", 0)):
        (tmp_path / name).chmod(mode)
    refused = "cannot be opened (Permission denied)"
    try:
        found, dropped = read_by_a_user("documents", tmp_path / "1", tmp_path / "in")
        assert (found, dropped) == (["good.txt"], {"shut": refused, "listed/a.txt": refused})
        found, dropped = read_by_a_user("records", tmp_path / "2", tmp_path / "rows")
        assert (found, dropped) == (["good.jsonl"], {"shut": refused})
        found, _ = read_by_a_user("documents", tmp_path / "3", tmp_path / "in" / "shut")
        assert found == f"data.ingest.documents: no text could be read from {tmp_path / 'in' / 'shut'} (1 {refused})"
    finally:
        for name in ("in/shut", "in/listed", "rows/shut"):
            (tmp_path / name).chmod(0o755)


def test_pipes_loops_and_folders_named_like_files(tmp_path: Path, read) -> None:
    folder = tmp_path / "a dir"
    (folder / "x.pdf").mkdir(parents=True)
    (folder / "x.pdf" / "résumé 水位.txt").write_text(PROSE)
    os.mkfifo(folder / "pipe.txt")  # whoever opened it would wait for ever
    (folder / "round").symlink_to("..")
    (folder / "itself").symlink_to("itself")
    data, dropped = read(folder)
    assert ({r["origin"]["file"] for r in data}, dropped) == ({"x.pdf/résumé 水位.txt"}, {})
    assert {r["origin"]["file"] for r in read(folder / "x.pdf")[0]} == {"résumé 水位.txt"}
    for nothing in (folder / "pipe.txt", folder / "itself", "", "~nobody-of-that-name/x", f"{folder}/[x"):
        with pytest.raises(MetierError, match=r"data\.ingest\.documents: no file at '"):
            read(nothing)


@linux
def test_names_that_are_no_utf_8_are_told_apart_and_printable(tmp_path: Path, read) -> None:
    for name in (b"a\xff.txt", b"a\xfe.txt", b"new\nline.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(f"{PROSE}{name!r}")
    files = {r["origin"]["file"] for r in read(tmp_path)[0]}
    assert files == {"a\\xff.txt", "a\\xfe.txt", "new\nline.txt"}
    assert _files.fingerprint([str(tmp_path)])
    assert {r["origin"]["file"] for r in read(f"{tmp_path}/a?.txt")[0]} == {"a\\xff.txt", "a\\xfe.txt"}


def test_what_metier_wrote_is_no_document(tmp_path: Path, read) -> None:
    for name in ("a.txt", "expert/README.md", "expert/metier.json", "mine/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PROSE)
    data, dropped = read(tmp_path)
    assert ({r["origin"]["file"] for r in data}, dropped) == ({"a.txt", "mine/README.md"}, {})


def test_standard_input_that_is_closed(read, monkeypatch: pytest.MonkeyPatch) -> None:
    _files.standard_input.cache_clear()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(MetierError, match="'-' means standard input, which is closed"):
        read("-")


def test_a_file_too_large_is_named_and_not_opened(tmp_path: Path, read) -> None:
    with (tmp_path / "big.txt").open("wb") as stream:
        stream.truncate(2 << 30)  # sparse
    with pytest.raises(MetierError, match=r"no text could be read from .*big\.txt \(1 larger than 256 MiB\)"):
        read(tmp_path / "big.txt")


@linux
def test_one_giant_line_costs_little_more_than_itself(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(PROSE * 200_000)  # 20 MB, no line break
    result, most = memory.peak("documents", tmp_path)
    chunks = int(result.split()[0])
    assert 20e6 / 2000 < chunks < 20e6 / 1000 and most < 600


@linux
@pytest.mark.timeout(900)
def test_memory_stays_flat_up_to_a_hundred_thousand_files(tmp_path: Path) -> None:
    found = {}
    for count in (5_000, 100_000):
        (tmp_path / str(count) / "in").mkdir(parents=True)
        for i in range(count):
            (tmp_path / str(count) / "in" / f"{i}.txt").write_text(f"{PROSE}Number {i}.")
        found[count] = memory.peak("documents", tmp_path / str(count))
    assert found[100_000][0].startswith("100000 ")
    assert found[100_000][1] - found[5_000][1] < 128, found  # MiB; the names alone take half of it


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"text": "oh', "not valid JSON: Invalid control character at at column 13"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "not valid JSON: a number of too many digits"),
        ('{"text": "a\\ud800"}', "holds half a character (a lone surrogate)"),
        ("[1]", "must be a JSON object, got list"),
    ],
)
def test_a_broken_row_among_documents_is_named_with_its_line(row: str, sentence: str, tmp_path: Path, read) -> None:
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": PROSE}) + "\n") * 730 + row + "\n")
    with pytest.raises(MetierError) as error:
        read(tmp_path)
    assert str(error.value) == f"a.jsonl, line 731: {sentence}"


def test_records_are_no_documents_and_documents_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    with pytest.raises(MetierError, match=r"data\.ingest\.records: no record could be read .* not a record format"):
        records.read([str(tmp_path)], work=Work(tmp_path / "w"))
    with pytest.raises(MetierError, match=r"data\.ingest\.documents: no file at"):
        documents.checks["read"]([str(tmp_path / "nowhere")])
