"""Whoever needs an extra that is missing is told, before anything runs, in one sentence that says how to get it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metier import catalogue

GONE = """
import sys
from metier.__main__ import main
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Gone())
main()
"""
REWARDED = (
    "base: {use: model, path: smollm2}\n"
    "sums: {use: tasks.arithmetic}\n"
    "made: {use: train.loop.reinforce, model: $base, data: $sums, steps: 1}\n"
)
# What needs an extra, and a recipe that reaches it.
USERS = {
    "evaluate/generation.py": (
        "sacrebleu",
        "base: {use: model, path: smollm2}\n"
        "facts: {use: tasks.general}\n"
        "said: {use: evaluate.generation, chats: {base: $base}, tasks: [$facts], metrics: [chrf]}\n",
    ),
    "lm/endpoint.py": ("openai", "writer: {use: endpoint, model: some-model, url: 'http://localhost:8000/v1'}\n"),
    "lm/_faults.py": ("openai", "writer: {use: endpoint, model: some-model, url: 'http://localhost:8000/v1'}\n"),
    "train/loop/reinforce.py": ("datasets", REWARDED),
    "train/loop/_rewarded.py": ("trl", REWARDED),
    "tasks/lm_eval.py": ("lm_eval", "arc: {use: tasks.lm_eval, names: [arc_easy]}\n"),
}


def imported(path: Path) -> set[str]:
    """The top-level modules a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, set[str]]:
    """The packages of each extra, and under "" those that are always installed."""
    found: dict[str, set[str]] = {}
    for line in importlib.metadata.requires("metier") or []:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        assert name is not None
        found.setdefault(extra[1] if extra else "", set()).add(normal(name[0]))
    return found


FILES = {path.relative_to(catalogue.PACKAGE).as_posix(): imported(path) for path in catalogue.PACKAGE.rglob("*.py")}


def test_every_user_of_an_extra_is_tried_here() -> None:
    found = {(name, module) for name, modules in FILES.items() for module in modules & set(catalogue.EXTRAS)}
    assert found == {(name, module) for name, (module, _) in USERS.items()}


@pytest.mark.parametrize(("module", "recipe"), sorted(set(USERS.values())), ids=lambda value: value.split(":")[0])
def test_a_missing_extra_is_one_sentence_before_anything_runs(module: str, recipe: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-c", GONE.format(module=module), "check", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (2, "")
    [sentence] = done.stderr.splitlines()
    told = rf'metier: recipe.yaml, line \d+: .*needs {module}: pip install "metier\[{catalogue.EXTRAS[module]}\]"'
    assert re.fullmatch(told, sentence), sentence


def test_what_the_package_imports_is_declared() -> None:
    # Not packages_distributions(): on Python 3.10 it knows only packages that list their modules themselves.
    packages: dict[str, set[str]] = {}
    for package in importlib.metadata.distributions():
        name = normal(package.name)
        for module in {re.split(r"/|\.py,", line)[0] for line in (package.read_text("RECORD") or "").splitlines()}:
            packages.setdefault(module, set()).add(name)
    extras = declared()
    for module in set().union(*FILES.values()) - set(sys.stdlib_module_names) - {"metier", "tomllib"}:
        names = packages.get(module, {normal(module)})  # what is not installed is called alike
        assert names & extras[catalogue.EXTRAS.get(module, "")], f"{module} is imported, and not declared"
