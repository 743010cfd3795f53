"""Documents on a bad day: what cannot be read is named, and memory does not grow with what lies there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import memory
from metier.data.ingest import _files, documents, records
from metier.options import MetierError
from metier.store import Work

PROSE = "The valve opens when the pressure in the chamber passes the limit that the operator has set before. "
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


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
def test_memory_stays_flat_from_a_thousand_files_to_ten_thousand(tmp_path: Path) -> None:
    found = {}
    for count in (1_000, 10_000):
        (tmp_path / str(count) / "in").mkdir(parents=True)
        for i in range(count):
            (tmp_path / str(count) / "in" / f"{i}.txt").write_text(f"{PROSE}Number {i}.")
        found[count] = memory.peak("documents", tmp_path / str(count))
    assert found[10_000][0].startswith("10000 ")
    assert found[10_000][1] - found[1_000][1] < 40, found


def test_records_are_no_documents_and_documents_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    with pytest.raises(MetierError, match=r"data\.ingest\.records: no record could be read .* not a record format"):
        records.read([str(tmp_path)], work=Work(tmp_path / "w"))
    with pytest.raises(MetierError, match=r"data\.ingest\.documents: no file at"):
        documents.checks["read"]([str(tmp_path / "nowhere")])
