"""The house rules, read from the syntax tree of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from metier import catalogue

PACKAGE = catalogue.PACKAGE
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {"options"},
    {"maths", "text", "stats"},
    {"disk", "memory"},
    {"records", "shapes"},
    {"artefacts"},
    {"store"},
    {"lm"},
    {"worlds", "general"},
    {"rooms"},
    {"figures", "report"},
    {"publish"},
    {"catalogue", "steps", "papers", "doctor"},
    {"calls"},
    {"access"},
    {"recipe"},
    {"runner", "together"},
    {"preflight"},
    {"study", "advise", "trial", "masks", "laws", "scaffold"},
    {"console", "talk", "printed"},
    {"road"},
    {"cli", "serve"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
LONGEST_FILE, LONGEST_METHOD = 300, 200


def place(path: Path) -> str:
    """The room of a file, or its top-level name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    folder = ".".join(parts[:-1])
    return folder if folder in catalogue.ROOMS and folder != "steps" else parts[0]


def level(name: str) -> int:
    return LEVEL[name] if name in LEVEL else LEVEL["rooms"]


def imports(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            target = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
            if name.startswith("metier.") and target.exists():
                yield target


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way_and_no_room_imports_another(path: Path) -> None:
    here = place(path)
    for target in imports(path):
        there = place(target)
        if here == there or there == "__init__":
            continue
        assert level(there) <= level(here), f"{here} may not import {there}"
        if here in catalogue.ROOMS and there in catalogue.ROOMS:
            pytest.fail(f"room {here} imports room {there}: take the method as an argument")
        if level(there) == level(here) == LEVEL["rooms"]:
            assert here.startswith(f"{there}.") or there not in catalogue.ROOMS, f"{here} may not import {there}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_dangerous_is_called(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not BANNED_MODULES & {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in BANNED_MODULES
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            assert name not in BANNED_CALLS
            attribute = ast.unparse(node.func) if isinstance(node.func, ast.Attribute) else ""
            assert attribute not in ("torch.load", "torch.save", "np.load", "os.system")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                assert not (keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and value is True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    method = any(m.path == path for m in catalogue.methods().values())
    assert lines <= (LONGEST_METHOD if method else LONGEST_FILE)


@pytest.mark.parametrize("method", catalogue.methods().values(), ids=lambda m: m.name)
def test_a_method_carries_its_card(method: catalogue.Method) -> None:
    assert method.summary and len(method.summary) <= 90, method.summary
    assert method.returns, f"{method.name} does not say what it returns"
    options = [o for o in method.options if o.option and o.name != "work"]
    for option in method.options:
        assert option.annotation, f"{option.name} has no type"
    if options:
        _, found, told = method.doc.partition("Options:")
        assert found, f"{method.name} tells nothing of its options"
        for option in options:
            assert f"{option.name}:" in told or f"`{option.name}`" in told, (
                f"{method.name}: '{option.name}' is not told"
            )
