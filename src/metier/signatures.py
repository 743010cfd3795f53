"""A method's parameters read off its file, so that nothing heavy is imported to show them.

Annotations and defaults are made of little: names, subscripts, ``|``, numbers, words, and calls that describe a range.
A class of another file stands for itself by its name, its ``ROLE`` and, where it is spread, its fields.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import operator
from pathlib import Path
from typing import Any

from metier.options import REQUIRED, Parameter, kind_of, leaves_of

LIGHT = {"collections.abc", "dataclasses", "metier.options", "pydantic", "typing"}  # taken from where they are
SIGNS: dict[type, Any] = {ast.BitOr: operator.or_, ast.Pow: operator.pow, ast.USub: operator.neg}


class Unread(Exception):
    """More is written there than can be told without running it."""


def flat(path: Path, function: str) -> list[Parameter]:
    """The parameters of a file's function, spread dataclasses replaced by their fields. Raises Unread."""
    file = _file(path)
    arguments = file.defined(function).args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    found: list[Parameter] = []
    for option, pairs in ((False, zip(plain, defaults, strict=True)),
                          (True, zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))):  # fmt: skip
        for argument, default in pairs:
            parameter = file.parameter(argument.arg, argument.annotation, default, option)
            spread = [leaf for leaf in leaves_of(parameter.annotation) if parameter.kind == "spread"]
            found += spread[0].fields() if spread else [parameter]
    return found


@functools.cache
def _file(path: Path) -> _File:
    return _File(ast.parse(path.read_text(encoding="utf-8")))


class _File:
    """What the names of a file stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: dict[str, Any] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                self.names |= {a.asname or a.name: (node.module, a.name) for a in node.names}
            elif isinstance(node, ast.Import):
                self.names |= {a.asname or a.name: (a.name, "") for a in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.names[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.names[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.names[node.target.id] = node.value

    def defined(self, function: str) -> ast.FunctionDef:
        found = self.names.get(function)
        if not isinstance(found, ast.FunctionDef):
            raise Unread(function)
        return found

    def parameter(self, name: str, annotation: ast.expr | None, default: ast.expr | None, option: bool) -> Parameter:
        kind = self.value(annotation) if annotation else Any
        if isinstance(kind, str):
            raise Unread(kind)
        given = REQUIRED if default is None else self.value(default)
        if hasattr(given, "default_factory"):  # a dataclass field
            given = given.default_factory()
        return Parameter(name, kind, kind_of(kind), given, option)

    def value(self, node: ast.expr) -> Any:
        """What an expression comes to. Raises Unread."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name | ast.Attribute):
            origin = self.origin(node)
            return _imported(*origin) if origin else self.named(ast.unparse(node))
        if isinstance(node, ast.Subscript):
            return self.value(node.value)[self.value(node.slice)]
        if isinstance(node, ast.Tuple):
            return tuple(self.value(part) for part in node.elts)
        if isinstance(node, ast.List):
            return [self.value(part) for part in node.elts]
        if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            return SIGNS[type(node.op)](self.value(node.left), self.value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
            return SIGNS[type(node.op)](self.value(node.operand))
        if isinstance(node, ast.Call) and (self.origin(node.func) or ("", ""))[0] in LIGHT:
            options = {k.arg: self.value(k.value) for k in node.keywords if k.arg}
            return self.value(node.func)(*map(self.value, node.args), **options)
        raise Unread(ast.unparse(node))

    def origin(self, node: ast.expr) -> tuple[str, str] | None:
        """(module, name) of what was imported."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = self.names.get(node.value.id)
            return (".".join(part for part in module if part), node.attr) if isinstance(module, tuple) else None
        found = self.names.get(node.id) if isinstance(node, ast.Name) else None
        return found if isinstance(found, tuple) else None

    def named(self, name: str) -> Any:
        stands = self.names.get(name)
        if isinstance(stands, tuple):  # passed on
            return _imported(*stands)
        if isinstance(stands, ast.ClassDef):
            return self.stub(stands)
        if isinstance(stands, ast.FunctionDef):
            return type(name, (), {})  # only its name is of interest
        if isinstance(stands, ast.expr):
            return self.value(stands)
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise Unread(name)

    def stub(self, node: ast.ClassDef) -> type:
        marked = {n.target.id: n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        own = {name for name, n in marked.items() if "ClassVar" in ast.unparse(n.annotation)}
        role = marked["ROLE"].value if "ROLE" in own else None

        def fields() -> list[Parameter]:
            return [self.parameter(k, n.annotation, n.value, True) for k, n in marked.items() if k not in own]

        return type(node.name, (), {"ROLE": self.value(role) if role else None, "fields": staticmethod(fields)})


def _imported(module: str, name: str) -> Any:
    """What another module means by a name; of a library that is not light, only the name."""
    if module in LIGHT:
        return getattr(importlib.import_module(module), name)
    spec = importlib.util.find_spec(module) if module.startswith("metier.") else None
    if spec is None or spec.origin is None:
        return type(name, (), {})
    return _file(Path(spec.origin)).named(name)
