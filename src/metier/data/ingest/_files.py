"""Which files a source means, in stable order, under names that do not depend on where they lie."""

from __future__ import annotations

import dataclasses
import errno
import functools
import glob
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from metier.disk import MARK
from metier.options import MetierError

NOWHERE = (errno.ENOENT, errno.ELOOP)  # a link to nothing, or to itself


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """``name`` is relative to its source; ``chosen`` files were named or globbed, not met while walking a folder.

    ``fault``: why it cannot even be looked at; a folder that cannot be entered stands for the files in it.
    """

    name: str
    path: Path | None  # None: standard input
    chosen: bool
    fault: OSError | None = None

    def data(self) -> bytes:
        return standard_input() if self.path is None else self.path.read_bytes()

    @property
    def size(self) -> int:
        return len(standard_input()) if self.path is None else self.path.stat().st_size


@functools.cache
def standard_input() -> bytes:
    # It can be read only once, and both the fingerprint and the reader need it.
    if sys.stdin is None:
        raise MetierError("'-' means standard input, which is closed")
    return sys.stdin.buffer.read()


def find(source: list[str], owner: str = "data.ingest.documents") -> list[File]:
    """The files of all sources by name; hidden ones, repeats and the folders of specialists are left out.

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
    path = Path(os.path.expanduser(entry))
    if not entry:  # as a path it would be the folder one stands in
        return
    if entry == "-":
        yield File("-", None, True)
    elif path.is_dir():
        yield from _folder(path, f"{_told(path.resolve().name)}/" if several else "")
    elif path.is_file():
        yield File(_told(path.name), path, True)
    elif glob.has_magic(entry):
        root = path
        while glob.has_magic(str(root)):
            root = root.parent
        for match in glob.glob(str(path), recursive=True):
            name = _told(Path(match).relative_to(root).as_posix())
            if Path(match).is_file():
                yield File(name, Path(match), True)
            elif "**" not in entry:
                yield from _folder(Path(match), f"{name}/")


def _folder(root: Path, before: str) -> Iterator[File]:
    faults: dict[Path, OSError] = {}

    def named(path: Path) -> str:
        return before + _told(path.relative_to(root).as_posix())

    for folder, folders, files in os.walk(root, onerror=lambda fault: faults.update({Path(fault.filename): fault})):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not os.path.lexists(Path(folder, f, MARK)))
        for path in (Path(folder) / name for name in files if not name.startswith(".")):
            try:
                plain = stat.S_ISREG(path.stat().st_mode)  # not a pipe, which might be waited at for ever
            except OSError as error:
                if error.errno not in NOWHERE:
                    faults[path] = error
                continue
            if plain:
                yield File(named(path), path, False)
    for path, fault in faults.items():
        yield File(named(path), path, False, fault)


def _told(name: str) -> str:
    """A name as text, the same in every locale; bytes of it that are no UTF-8 are written as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
