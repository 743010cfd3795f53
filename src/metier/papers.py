"""Which paper lives where: read from the files, never kept by hand.

A method file names its papers in the module docstring, a recipe, guide or study in a comment or key:

    Paper: 8 (Token-Adaptive Loss Reweighting)      several: "Paper: 8, 107"      YAML, TOML: "# Paper: 8"

A ``Paper:`` line without a number cites work that is not in ``papers.toml`` and is left out.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from metier.options import MetierError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).parent
NUMBERS = re.compile(r"^[ \t]*(?:# *)?Paper:[ \t]*(\d+(?:[ \t]*,[ \t]*\d+)*)[ \t]*(?:\(|$)", re.MULTILINE)


def rows(root: Path | None = None) -> list[dict[str, Any]]:
    """One row a paper: ``paper``, ``title``, ``files``, ``tests``, ``study``, ``verdict``, by number.

    ``root`` is a checkout; the default is the one this file lies in, if any. Tests and studies are known in a
    checkout only. Paths are relative to the root. Raises MetierError when a file names a number that is not listed.
    """
    root = root or PACKAGE.parents[1]
    package = root / "src" / "metier" if (root / "src" / "metier").is_dir() else PACKAGE
    listed = tomllib.loads((PACKAGE / "papers.toml").read_text(encoding="utf-8"))["paper"]
    known = {paper["number"] for paper in listed}
    files: dict[int, list[Path]] = defaultdict(list)
    for path, named in (*_methods(package), *_commented(package)):
        for number in named:
            if number not in known:
                raise MetierError(f"{path.relative_to(package.parent).as_posix()}: there is no paper {number}")
            files[number].append(path)
    studies = list(_studies(root))
    found = []
    for paper in listed:
        number, own = paper["number"], files[paper["number"]]
        mine = [(name, verdict) for name, named, verdict in studies if number in named]
        found.append({
            "paper": number,
            "title": paper["title"],
            "files": [_name(path, root, package) for path in own],
            "tests": [_name(test, root, package) for path in own for test in _tests(path, root, package)],
            "study": ", ".join(name for name, _ in mine) or None,
            "verdict": ", ".join(verdict for _, verdict in mine if verdict) or None,
        })  # fmt: skip
    return found


def numbers(text: str) -> list[int]:
    """The paper numbers that a docstring or a commented file names, in order."""
    return [int(number) for line in NUMBERS.findall(text) for number in line.split(",")]


def _methods(package: Path) -> Iterator[tuple[Path, list[int]]]:
    for path in sorted(package.rglob("*.py")):
        if path != package / Path(__file__).name:  # this file's docstring explains the line and so contains it
            yield path, numbers(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


def _commented(package: Path) -> Iterator[tuple[Path, list[int]]]:
    for path in sorted((*package.glob("recipes/*.yaml"), *package.glob("guides/*.toml"))):
        yield path, numbers(path.read_text(encoding="utf-8"))


def _studies(root: Path) -> Iterator[tuple[str, list[int], str | None]]:
    """Folder, papers and verdict of each study; the verdict is what its run computed, if it has run."""
    for path in sorted(root.glob("studies/*/study.yaml")):
        named = yaml.safe_load(path.read_text(encoding="utf-8")).get("paper", [])
        result = path.parent / "results.json"
        verdict = json.loads(result.read_text(encoding="utf-8")).get("verdict") if result.exists() else None
        yield path.parent.relative_to(root).as_posix(), named if isinstance(named, list) else [named], verdict


def _tests(path: Path, root: Path, package: Path) -> list[Path]:
    """``tests/…/<room>/test_<name>.py``, where the room is the file's folder."""
    folder = path.relative_to(package).parent
    rooms = {folder.name, folder.as_posix().replace("/", ".")}
    return sorted(t for t in root.glob(f"tests/**/test_{path.stem}.py") if t.parent.name in rooms)


def _name(path: Path, root: Path, package: Path) -> str:
    return path.relative_to(root if path.is_relative_to(root) else package.parent).as_posix()
