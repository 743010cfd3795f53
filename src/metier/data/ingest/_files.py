"""Which files a source means, in stable order, under names that do not depend on where they lie."""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from metier.options import MetierError


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """``name`` is relative to its source; ``chosen`` files were named or globbed, not met while walking a folder."""

    name: str
    path: Path | None  # None: standard input
    chosen: bool

    def data(self) -> bytes:
        return standard_input() if self.path is None else self.path.read_bytes()

    @property
    def size(self) -> int:
        return len(standard_input()) if self.path is None else self.path.stat().st_size


@functools.cache
def standard_input() -> bytes:
    # It can be read only once, and both the fingerprint and the reader need it.
    return sys.stdin.buffer.read()


def find(source: list[str], owner: str = "data.ingest.documents") -> list[File]:
    """The files of all sources by name; hidden ones and repeats are left out.

    With several sources a folder's files carry its name in front. Raises MetierError for a source that is not there.
    """
    if not source:
        raise MetierError(f"{owner}: 'source' names no file or folder")
    found: list[File] = []
    for entry in source:
        files = sorted(_entry(entry, len(source) > 1), key=lambda f: f.name)
        if not files:
            raise MetierError(f"{owner}: no file at {entry!r}")
        found += files
    unique: dict[Path | None, File] = {}
    for file in found:
        unique.setdefault(file.path and file.path.resolve(), file)
    names: dict[str, int] = {}
    result = []
    for file in unique.values():
        names[file.name] = count = names.get(file.name, 0) + 1
        result.append(file if count == 1 else dataclasses.replace(file, name=f"{file.name}#{count}"))
    return sorted(result, key=lambda f: f.name)


def fingerprint(source: list[str]) -> str:
    """Of the names and bytes of all files."""
    sha = hashlib.sha256()
    for file in find(source):
        sha.update(f"\n{file.name}:{file.chosen}:".encode())
        if file.path is None:
            sha.update(standard_input())
            continue
        try:
            with file.path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    sha.update(block)
        except OSError:
            sha.update(b"unreadable")
    return sha.hexdigest()


def _entry(entry: str, several: bool) -> Iterator[File]:
    path = Path(entry).expanduser()
    if entry == "-":
        yield File("-", None, True)
    elif path.is_dir():
        yield from _folder(path, f"{path.resolve().name}/" if several else "")
    elif path.is_file():
        yield File(path.name, path, True)
    elif glob.has_magic(entry):
        root = path
        while glob.has_magic(str(root)):
            root = root.parent
        for match in glob.glob(str(path), recursive=True):
            name = Path(match).relative_to(root).as_posix()
            if Path(match).is_file():
                yield File(name, Path(match), True)
            elif "**" not in entry:
                yield from _folder(Path(match), f"{name}/")


def _folder(root: Path, before: str) -> Iterator[File]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in files:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield File(before + path.relative_to(root).as_posix(), path, False)
