"""What is read off a method's file is what its signature says, without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from metier import calls, catalogue, signatures
from metier.options import MetierError, Parameter, describe

METHODS = list(catalogue.methods().values())


def told(parameters: list[Parameter]) -> list[tuple[object, ...]]:
    return [(p.name, describe(p.annotation), p.default, p.kind, p.option) for p in parameters]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_is_read_as_it_is(method: catalogue.Method) -> None:
    try:
        function = catalogue.load(method)
    except MetierError as missing:  # an extra that is not installed
        pytest.skip(str(missing))
    assert told(signatures.flat(method.path, method.verb)) == told(calls.flat(function))


def test_a_listing_finds_what_the_syntax_tree_holds() -> None:
    found: dict[Path, set[str]] = {}
    for method in METHODS:
        found.setdefault(method.path, set()).add(method.verb)
        assert method.doc == (ast.get_docstring(ast.parse(method.path.read_text(encoding="utf-8"))) or "")
    for path, verbs in found.items():
        functions = {n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)}
        room = next(m.room for m in METHODS if m.path == path)
        assert verbs == functions & {catalogue.ROOMS[room], "fit", "make", "apply", "attach"}


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["show", "train.loop.sft"], ["show", "adapt"]])
def test_looking_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['metier', *{arguments!r}]\n"
        "from metier import __main__\n"
        "try:\n    __main__.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'yaml'}\n"
        "    print(sorted({m.partition('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_what_cannot_be_read_is_imported(tmp_path: Path) -> None:
    place = tmp_path / "data" / "select"
    place.mkdir(parents=True)
    (place / "odd.py").write_text(
        "'''One line.'''\nfrom metier.artefacts import Records, Scores\nfrom metier.options import Count\n"
        "def score(data: Records, *, most: Count = sum([1, 2])) -> Scores:\n    ...\n",
        encoding="utf-8",
    )
    with pytest.raises(signatures.Unread):
        signatures.flat(place / "odd.py", "score")
    command = [sys.executable, "-m", "metier", "--methods", str(tmp_path), "show", "data.select.odd"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "One line." in shown and "a whole number at least 1" in shown and " 3 " in shown
