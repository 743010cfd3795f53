"""Where results live: a content-addressed folder per step, written beside its place and renamed last.

``$METIER_HOME`` (default: the user cache folder) holds ``steps/<key>/`` with the artefact, ``manifest.json``
and ``log.jsonl``; unfinished work lies in ``steps/<key>.part/``, where a killed step finds its checkpoints again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol

from metier.artefacts import KINDS, Artefact
from metier.disk import write_json


class Bar(Protocol):
    """A progress bar: how many units are done, and a few words on the state."""

    def advance(self, units: float = 1, note: str = "") -> None: ...


Progress = Callable[[str, float], AbstractContextManager[Bar]]


class _Silent:
    def advance(self, units: float = 1, note: str = "") -> None: ...


def silent(label: str, total: float) -> AbstractContextManager[Bar]:
    return nullcontext(_Silent())


class Work:
    """What a running step may use: its unfinished folder, its log, a progress bar.

    A method that wants it declares ``work: Work`` (or a dataclass with such a field); the recipe fills it in.
    Called from Python, ``Work(folder)`` is enough.
    """

    ROLE: ClassVar[str] = "work"

    def __init__(
        self, folder: Path, progress: Progress = silent, above: Sequence[Any] = (), begun: float | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.progress = progress
        self.above = above  # the finished steps of the run so far: name, use, seconds, log …
        self.begun = time.monotonic() if begun is None else begun

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begun

    def log(self, **row: Any) -> None:
        """Appends one JSON row to ``log.jsonl``."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """The log so far; a line torn by a kill is left out."""
        return read_log(self.folder)


class Store:
    """Finished and unfinished steps under one root. Two processes may share it: a key is computed by one at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps = root / "steps"

    def manifest(self, key: str) -> dict[str, Any] | None:
        path = self.steps / key / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def load(self, key: str) -> Artefact:
        manifest = self.manifest(key)
        assert manifest is not None, key
        return KINDS[manifest["kind"]].load(self.steps / key)

    def log(self, key: str) -> list[dict[str, Any]]:
        return read_log(self.steps / key)

    @contextmanager
    def computing(self, key: str) -> Iterator[Path]:
        """Holds the key's lock and yields its unfinished folder, which keeps what an earlier, killed run left there."""
        self.steps.mkdir(parents=True, exist_ok=True)
        (self.root / "locks").mkdir(exist_ok=True)
        with (self.root / "locks" / key).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = self.steps / f"{key}.part"
            folder.mkdir(exist_ok=True)
            yield folder

    def commit(self, key: str, artefact: Artefact, facts: dict[str, Any]) -> None:
        """Writes the artefact and its manifest, syncs, and renames the folder into place.

        Checkpoints (``checkpoints/``) are dropped; a Model or Part must keep its files elsewhere in the folder.
        """
        folder = self.steps / f"{key}.part"
        artefact.save(folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        write_json(folder / "manifest.json", {"kind": type(artefact).__name__, "digest": artefact.digest} | facts)
        sync(folder)
        folder.rename(self.steps / key)
        sync_folder(self.steps)


def home() -> Path:
    """``$METIER_HOME``, or ``metier`` in the user's cache folder."""
    if os.environ.get("METIER_HOME"):
        return Path(os.environ["METIER_HOME"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "metier"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metier"


def read_log(folder: Path) -> list[dict[str, Any]]:
    rows = []
    path = folder / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields ``<folder>.tmp`` to write into; on success it is synced and takes the place of the folder."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(folder.parent)


def sync(folder: Path) -> None:
    """Every file below the folder, then the folders, reach the disk before a rename makes them count."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
