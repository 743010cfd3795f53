"""What lies in wheel and sdist, and that the wheel does what the checkout does, with no checkout and no network."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import metier
from metier.laws import toy
from package.wheels import ROOT, build, run

PACKAGE = ROOT / "src" / "metier"
NEEDED = ["py.typed", "recipes/adapt.yaml", "general/files/replay.jsonl.gz", "general/files/README.md", "papers.toml",
          "templates/report.html.j2", "templates/style.css", "templates/new/test.jinja", "laws/common.py"]  # fmt: skip
DOCUMENTS = ["assert", "async", "break", "del", "else", "for", "global", "if", "import", "lambda", "pass", "return"]
SMALL = {
    "domain.bytes": 2000, "domain.cloze": 6, "domain.questions": 2, "general.choice": 12, "general.prose": 3,
    "general.arithmetic": 6, "general.grammar": 6, "general.forms": 2, "plan.rates": "[1e-3]", "plan.trial": 1,
    "plan.least": 2, "plan.step_tokens": 256, "plan.dev_tokens": 256, "expert.step_tokens": 256,
    "expert.dev_tokens": 256, "control.step_tokens": 256, "domain_after.max_tokens": 4, "asked_before.max_tokens": 4,
    "general_before.max_tokens": 4, "general_after.max_tokens": 4, "reader_before.max_tokens": 4,
}  # fmt: skip


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: dict[str, Path]) -> None:
    names = [n for n in zipfile.ZipFile(built[".whl"]).namelist() if ".dist-info/" not in n]
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sorted(names) == sorted(p.relative_to(PACKAGE.parent).as_posix() for p in files)
    assert {f"metier/{name}" for name in NEEDED} <= set(names)


def test_the_metadata_tells_version_licence_and_extras(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        folder = f"metier-{metier.__version__}.dist-info"
        told = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
        assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (told["Version"], told["License-Expression"]) == (metier.__version__, "Apache-2.0")
    assert {"serve", "ray", "eval", "federated", "gguf", "dev"} <= set(told.get_all("Provides-Extra"))


def test_the_sdist_builds_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    shutil.unpack_archive(built[".gz"], tmp_path)
    [source] = tmp_path.iterdir()
    names = {path.relative_to(source).as_posix() for path in source.rglob("*")}
    assert {"Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "docs/design.md"} <= names
    assert not [n for n in names if set(Path(n).parts) & {".venv", ".metier", "__pycache__", "expert", "build", "dist"}]
    again = build(source, tmp_path / "again", "wheel")
    assert again[".whl"].read_bytes() == built[".whl"].read_bytes()


def test_the_installed_command_starts(python: Path, tmp_path: Path) -> None:
    command = python.parent / "metier"
    where = run(python, "-c", "import metier; print(metier.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[1]) and not Path(where).is_relative_to(ROOT)
    assert "adapt" in run(command, "--help", cwd=tmp_path)
    assert run(command, "list", "--json", cwd=tmp_path) == run(sys.executable, "-m", "metier", "list", "--json")


@pytest.mark.timeout(900)
def test_adapt_gives_the_same_as_from_the_checkout_and_asks_no_network(python: Path, tmp_path: Path) -> None:
    model = toy.write(tmp_path / "model").path
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    wide = config | {"max_position_embeddings": 8192}  # room for passages beside a question
    (model / "config.json").write_text(json.dumps(wide), encoding="utf-8")
    for name in DOCUMENTS:
        (tmp_path / "docs").mkdir(exist_ok=True)
        shutil.copy(ROOT / "examples" / "python_reference" / f"{name}.txt", tmp_path / "docs")
    sets = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    for begin, name in (([sys.executable, "-m", "metier"], "checkout"), ([python.parent / "metier"], "wheel")):
        options = ["--model", "model", "--out", name, "--budget", "1s", *sets]
        run(*begin, "adapt", "docs", *options, cwd=tmp_path, METIER_HOME=str(tmp_path / f"{name}-home"))
    checkout, wheel = tmp_path / "checkout", tmp_path / "wheel"
    assert sorted(os.listdir(wheel)) == sorted(os.listdir(checkout))
    assert (wheel / "adapter_model.safetensors").read_bytes() == (checkout / "adapter_model.safetensors").read_bytes()
    assert told(wheel) == told(checkout)
    assert not (python.parents[2] / "asked").exists(), (python.parents[2] / "asked").read_text()


def told(folder: Path) -> dict[str, Any]:
    """The report, less what depends on the clock."""
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    keys = [(step["name"], step["key"]) for step in facts["steps"] if step["name"] != "out"]  # writes where it is told
    return {"keys": keys} | {k: facts[k] for k in ("metier", "headline", "notes", "measures", "examples", "data")}
