"""Which methods exist: a folder listing and the table of rooms. No method is imported to list them.

The table is the architecture: a file in a room's folder is a method, and the room fixes its verb. Folders of the same
shape outside the package (``add``, or an installed entry point of the group ``metier.methods``) are laid over it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metier
from metier.options import MetierError, unknown

PACKAGE = Path(__file__).parent
ROOMS = {
    "steps": "run",
    "data.ingest": "read",
    "data.edit": "edit",
    "data.synthesize": "write",
    "data.answer": "write",
    "data.refine": "rewrite",
    "data.select": "score",
    "data.mix": "weigh",
    "train.objective": "loss",
    "train.term": "term",
    "train.parameters": "prepare",
    "train.optimizer": "optimizer",
    "train.schedule": "rate",
    "train.loop": "train",
    "train.rounds": "train",
    "compose.merge": "merge",
    "compose.delta": "apply",
    "infer.context": "wrap",
    "infer.decode": "wrap",
    "route": "wrap",
    "guard": "wrap",
    "evaluate": "measure",
    "analyse": "analyse",
    "tasks": "make",
}
PLUMBING = "steps"  # the one room whose methods go by their short name


@dataclasses.dataclass(frozen=True)
class Option:
    """One parameter as written: its annotation and default are source text, nothing was imported."""

    name: str
    annotation: str
    default: str | None
    option: bool


@dataclasses.dataclass(frozen=True)
class Method:
    """A method as its file tells it: ``name`` is what a recipe writes after ``use:``."""

    name: str
    room: str
    verb: str
    path: Path
    doc: str

    @functools.cached_property
    def function(self) -> ast.FunctionDef:
        """As written; nothing of it was run."""
        return next(n for n in _tree(self.path).body if isinstance(n, ast.FunctionDef) and n.name == self.verb)

    @functools.cached_property
    def options(self) -> tuple[Option, ...]:
        arguments = self.function.args
        plain = arguments.posonlyargs + arguments.args
        defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
        options = [_option(a, d, False) for a, d in zip(plain, defaults, strict=True)]
        options += [_option(a, d, True) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
        return tuple(options)

    @functools.cached_property
    def returns(self) -> str:
        return ast.unparse(self.function.returns) if self.function.returns else ""

    @property
    def summary(self) -> str:
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    @property
    def module(self) -> str:
        return f"metier.{self.room}.{self.path.stem}"


@functools.cache
def methods() -> dict[str, Method]:
    """Every method by name, rooms in the order of the table. Raises MetierError when two files claim one name."""
    for entry in importlib.metadata.entry_points(group="metier.methods"):
        spec = importlib.util.find_spec(entry.value)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            _lay_over(Path(folder))
    found: dict[str, Method] = {}
    for room in ROOMS:
        for folder in importlib.import_module(f"metier.{room}").__path__:
            for path in sorted(p for p in Path(folder).glob("*.py") if not p.name.startswith("_")):
                for method in _room_methods(room, path):
                    if method.name in found:
                        raise MetierError(f"{path}: '{method.name}' is already {found[method.name].path}")
                    found[method.name] = method
    return found


def add(folder: Path) -> None:
    """Methods below ``folder`` (``train/objective/mine.py``) count like those of the package.

    They import like them too: ``metier.train.objective.mine``. Raises MetierError when the folder holds no room.
    """
    if not any((folder / room.replace(".", "/")).is_dir() for room in ROOMS):
        raise MetierError(f"methods: '{folder}' holds no folder of a room, such as {folder / 'train' / 'objective'}")
    _lay_over(folder.resolve())
    methods.cache_clear()


def _lay_over(folder: Path) -> None:
    for name in ("metier", *(f"metier.{room}" for room in ROOMS)):
        inside = folder.joinpath(*name.split(".")[1:])
        package = importlib.import_module(name)
        if inside.is_dir() and str(inside) not in package.__path__:
            package.__path__.append(str(inside))


def find(name: str, owner: str = "recipe", room: str | None = None) -> Method:
    """The method a recipe names; inside a slot of ``room`` its short name is enough.

    Raises MetierError with the nearest name.
    """
    known = methods()
    for candidate in (name, f"{room}.{name}") if room else (name,):
        if candidate in known:
            if room and known[candidate].room != room:
                raise MetierError(f"{owner}: needs a method of {room}, got '{name}'")
            return known[candidate]
    names = [n.removeprefix(f"{room}.") for n in known if n.startswith(f"{room}.")] if room else list(known)
    if room is None and "." in name and name.rpartition(".")[0] in ROOMS:
        names = [n for n in known if n.startswith(name.rpartition(".")[0] + ".")]
    raise unknown(owner, name, names, "method")


def load(method: Method) -> Callable[..., Any]:
    """Imports the method's file and returns its function. Raises MetierError naming the extra when one is missing."""
    try:
        module = importlib.import_module(method.module)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MetierError(f'{method.name} needs {error.name}: pip install "metier[{extra}]"') from None
    found: Callable[..., Any] = getattr(module, method.verb)
    return found


EXTRAS = {
    "lm_eval": "eval",
    "sacrebleu": "eval",
    "openai": "serve",
    "fastapi": "serve",
    "ray": "ray",
    "flwr": "federated",
    "trl": "rl",
    "datasets": "rl",
    "llama_cpp": "gguf",
}


def code_digest(paths: Iterable[Path]) -> str:
    """Of all that these files do: change it, and what they made before is made anew.

    That is the code, without comments and docstrings, of them and of every metier file that imports reach from them,
    the data beside that code (in a folder ``files``), and the versions of the libraries it imports.
    """
    reached: set[Path] = set()
    queue = list(paths)
    while queue:
        path = queue.pop()
        if path not in reached:
            reached.add(path)
            queue.extend(_imports(path))
    sha = hashlib.sha256()
    for path in sorted(reached):
        sha.update(_code(path).encode())
    for folder in sorted({path.parent / "files" for path in reached}):
        sha.update(_data(folder).encode())
    for library in sorted({name for path in reached for name in _libraries(path)}):
        sha.update(f"{library} {_version(library)}\n".encode())
    return sha.hexdigest()


@functools.cache
def _data(folder: Path) -> str:
    from metier.disk import files_digest  # pyarrow comes with it, which a listing does not need

    return files_digest(folder) if folder.is_dir() else ""


@functools.cache
def _libraries(path: Path) -> frozenset[str]:
    """What a file imports that is neither Python's own nor metier's, by its top name."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return frozenset({name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"metier"})


@functools.cache
def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # its package has another name, or is not installed
        return " ".join(importlib.metadata.version(name) for name in sorted(set(_packages().get(library, ()))))


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]
    return ast.dump(tree)


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    files: set[Path] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            beside = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            files |= {beside.with_suffix(".py"), *(beside / f"{alias.name}.py" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    for part in (name.split(".")[1:] for name in names if name.startswith("metier.")):
        for root in metier.__path__:
            files |= {Path(root, *part).with_suffix(".py"), Path(root, *part, "__init__.py")}
    return tuple(sorted(f for f in files if f.exists()))


def _room_methods(room: str, path: Path) -> Iterator[Method]:
    """The room's verb under the plain name; every other public function that returns an artefact under its own."""
    text = path.read_text(encoding="utf-8")  # to parse every file would take longer than the rest of a listing
    doc = _doc(text)
    for verb in re.findall(r"^def (\w+)\(", text, re.MULTILINE):
        if verb == ROOMS[room]:
            yield Method(path.stem if room == PLUMBING else f"{room}.{path.stem}", room, verb, path, doc)
        elif verb in ("fit", "make", "apply", "attach"):
            yield Method(f"{room}.{path.stem}.{verb}", room, verb, path, doc)


def _doc(text: str) -> str:
    found = re.match(r'(?:\s|#.*\n)*("""[^\\]*?""")', text)
    if found is None:  # another way of writing it, or none
        return ast.get_docstring(ast.parse(text)) or ""
    return inspect.cleandoc(found[1][3:-3])


def _option(argument: ast.arg, default: ast.expr | None, option: bool) -> Option:
    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
    return Option(argument.arg, annotation, ast.unparse(default) if default else None, option)
