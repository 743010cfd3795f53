"""Where results live: a content-addressed folder per step, written beside its place and renamed last.

``$METIER_HOME`` (default: the user cache folder) holds ``steps/<key>/`` with the artefact, ``manifest.json``
and ``log.jsonl``; unfinished work lies in ``steps/<key>.part/``, where a killed step finds its checkpoints again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol

from metier.artefacts import KINDS, Artefact
from metier.disk import text_digest, write_json, writing
from metier.options import MetierError

CLOCK = "clock.json"  # when this go at an unfinished step began, and what earlier ones took


class Bar(Protocol):
    """A progress bar: how many units are done, and a few words on the state."""

    def advance(self, units: float = 1, note: str = "") -> None: ...


Progress = Callable[[str, float], AbstractContextManager[Bar]]  # label, units; 0 units: only a sentence to show


class _Silent:
    def advance(self, units: float = 1, note: str = "") -> None: ...


def silent(label: str, total: float) -> AbstractContextManager[Bar]:
    return nullcontext(_Silent())


class Work:
    """What a running step may use: its unfinished folder, its log, a progress bar.

    A method that wants it declares ``work: Work`` (or a dataclass with such a field); the recipe fills it in.
    What a killed step is to find again lies below ``checkpoints/``; everything else but the log is wiped before it
    goes on. Called from Python, ``Work(folder)`` is enough.
    """

    ROLE: ClassVar[str] = "work"

    def __init__(
        self, folder: Path, progress: Progress = silent, above: Sequence[Any] = (), begun: float | None = None
    ) -> None:
        with writing(folder):
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
        path = self.folder / "log.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def note(self, sentence: str) -> None:
        """A remark for the log and for the screen."""
        self.log(note=sentence)
        with self.progress(sentence, 0):
            pass

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
        finished = self.steps / key
        return read_log(finished if finished.exists() else self.root / "always" / key)

    @contextmanager
    def alone(self, held: str | Path, progress: Progress = silent) -> Iterator[None]:
        """No other process holds this key, or this folder, meanwhile; one that is killed lets go of it."""
        path = self.root / "locks" / (held if isinstance(held, str) else text_digest(str(held.resolve()))[:40])
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("w")
        with lock:
            with writing(path):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    with progress("waiting for another run at the same work", 0):
                        fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def part(self, key: str) -> Path:
        """The folder of an unfinished step."""
        return self.steps / f"{key}.part"

    @contextmanager
    def computing(self, key: str, progress: Progress = silent) -> Iterator[Path]:
        """Holds the key's lock and yields its unfinished folder, with what an earlier, killed run can go on from.

        Afterwards ``manifest(key)`` must be asked again: another run may have finished the step in the meantime.
        """
        with self.alone(key, progress):
            folder = self.part(key)
            if (folder / "manifest.json").exists():
                self._place(key)  # killed on its very last way
            if self.manifest(key) is None:
                with writing(folder):
                    _ready(folder)
            with writing(folder, also_reads=True):
                yield folder

    def commit(self, key: str, artefact: Artefact, facts: dict[str, Any]) -> None:
        """Writes the artefact and its manifest, syncs, and renames the folder into place.

        Checkpoints are dropped; a Model or Part must keep its files elsewhere in the folder. ``seconds`` of the facts
        count what earlier, killed runs spent as well.
        """
        folder = self.part(key)
        artefact.save(folder)
        facts = {"kind": type(artefact).__name__, "digest": artefact.digest} | facts
        if "seconds" in facts:
            facts["seconds"] = round(facts["seconds"] + _earlier(folder), 3)
        write_json(folder / "manifest.tmp", facts)
        sync(folder)
        (folder / "manifest.tmp").rename(folder / "manifest.json")  # now a kill costs nothing any more
        self._place(key)

    def _place(self, key: str) -> None:
        folder = self.part(key)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / CLOCK).unlink(missing_ok=True)
        with writing(self.steps / key):
            sync_folder(folder)
            folder.rename(self.steps / key)
            sync_folder(self.steps)

    @contextmanager
    def scratch(self, key: str, progress: Progress = silent) -> Iterator[Path]:
        """An empty folder for a step that runs every time, held by one process."""
        folder = self.root / "always" / key
        with self.alone(key, progress):
            shutil.rmtree(folder, ignore_errors=True)
            with writing(folder, also_reads=True):
                yield folder


def home() -> Path:
    """``$METIER_HOME``, or ``metier`` in the user's cache folder.

    Raises MetierError when it is a file, or nobody knows whose folder is meant.
    """
    named = os.environ.get("METIER_HOME", "")
    cache = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = Path(os.path.expanduser(named or f"{cache}/metier"))
    if str(found).startswith("~"):
        raise MetierError(f"METIER_HOME: '{found}' belongs to nobody this machine knows; name another folder")
    if named and not found.is_dir() and found.exists():
        raise MetierError(f"METIER_HOME: '{found}' is a file; name a folder")
    return found


def read_log(folder: Path) -> list[dict[str, Any]]:
    rows = []
    path = folder / "log.jsonl"
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # torn by a kill, perhaps inside a character
            continue
    return rows


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields a folder beside this one to write into; on success it is synced and takes its place, else it is gone.

    At no moment is the folder half there; what stood in its place is moved aside first and removed last.
    """
    folder = folder.resolve()
    fresh, old = (folder.with_name(folder.name + end) for end in (".tmp", ".old.tmp"))
    with writing(folder):
        if old.exists() and not folder.exists():  # killed between the two renames
            old.rename(folder)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
    try:
        with writing(fresh, also_reads=True):
            yield fresh
            sync(fresh)
        with writing(folder):
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # a full disk needs the room
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Every file and folder below reaches the disk before a rename makes them count."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _ready(folder: Path) -> None:
    """Leaves what an unfinished step goes on from, and nothing else; starts its clock."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _earlier(folder) + _last_go(folder)
    checkpoints = folder / "checkpoints"
    for path in [*checkpoints.rglob("*.tmp")]:
        _remove(path)
    goes_on = checkpoints.is_dir() and any(checkpoints.iterdir())
    for path in folder.iterdir():
        if not (goes_on and path.name in ("checkpoints", "log.jsonl")):
            _remove(path)
    log = folder / "log.jsonl"
    if log.exists():  # the next row must not be glued to one that a kill tore
        with log.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)
    write_json(folder / CLOCK, {"begun": time.time(), "earlier": earlier})


def _earlier(folder: Path) -> float:
    """Seconds that the goes before this one took."""
    return float(_clock(folder).get("earlier", 0.0))


def _last_go(folder: Path) -> float:
    """Seconds from the beginning of a go that was killed to the last file it wrote."""
    begun = _clock(folder).get("begun", math.inf)
    return max(0.0, max((p.lstat().st_mtime for p in folder.rglob("*")), default=0.0) - begun)


def _clock(folder: Path) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads((folder / CLOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or torn by a kill
        return {}
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
