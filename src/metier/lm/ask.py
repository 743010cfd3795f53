"""Questions put to a writer: in chunks, each reply kept, so that nobody is ever asked the same twice.

Replies lie in ``<store>/replies/replies.db`` under chat, conversation and sampling. A process that is killed loses one
chunk at most, and asked again it puts the chunks together as before, so the same conversations share a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import metier
from metier.disk import json_text, text_digest
from metier.lm.chat import GREEDY, Chat, Reply, Sampling
from metier.lm.tokens import Conversation
from metier.options import MetierError
from metier.store import Work, home

CHUNK = 32  # replies asked for, then written down together
PATIENCE = 60  # seconds to wait for another process that writes


class Kept:
    """What was asked before, on disk. Several processes may share it; of two answers to one question the first counts.

    An entry that cannot be read counts as not there. Raises MetierError when the file is damaged or cannot be used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or home() / "replies") / "replies.db"

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values kept under these keys."""
        with self._open() as base:
            return _read(base, keys)

    def put(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes them down, all or none, and returns what is kept: another process may have been first."""
        with self._open() as base:
            base.execute("BEGIN IMMEDIATE")  # nobody writes between reading and writing
            known = _read(base, list(values))
            new = {key: json_text(value) for key, value in values.items() if key not in known}
            base.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", new.items())
            base.execute("COMMIT")
        return known | {key: json.loads(text) for key, text in new.items()}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as base:
                base.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
                yield base
        except OSError as error:
            raise MetierError(f"replies: {self.path} cannot be used: {error.strerror}") from None
        except sqlite3.OperationalError as error:
            raise MetierError(f"replies: {self.path} cannot be used: {error}") from None
        except sqlite3.DatabaseError:
            raise MetierError(f"replies: {self.path} is damaged; delete it, and what it held is asked anew") from None


class Keeping:
    """A Chat that keeps each reply itself, as it comes: nothing is gained by asking it in chunks.

    Its replies are made elsewhere: another version of this code changes none of them.
    """

    kept: Kept


def ask(
    chat: Chat, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, *, work: Work, label: str = "asking"
) -> list[Reply]:  # fmt: skip
    """``sampling.n`` replies a conversation, in order, as ``chat.reply`` gives them.

    Logs how many conversations were put to the chat, how many were kept already, and the tokens of new replies.
    """
    kept, size = Kept(), max(1, CHUNK // sampling.n)
    if isinstance(chat, Keeping):
        kept, size = chat.kept, max(1, len(conversations))
    keys = [key_of(chat, conversation, sampling) for conversation in conversations]
    different = dict(zip(keys, conversations, strict=True))
    known = kept.get(list(different))
    cached, tokens, begun = len(known), 0, time.monotonic()
    with work.progress(label, len(different)) as bar:
        bar.advance(cached)
        for chunk in _chunks(different, size):
            missing = [key for key in chunk if key not in known]
            if not missing:
                continue
            told = chat.reply([different[key] for key in missing], sampling, lambda n: bar.advance(n / sampling.n))
            tokens += sum(reply.tokens for reply in told)
            known |= kept.put(dict(zip(missing, packed(told, sampling.n), strict=True)))
    work.log(event="asked", what=label, conversations=len(keys), calls=len(different) - cached, cached=cached,
             tokens=tokens, seconds=round(time.monotonic() - begun, 3))  # fmt: skip
    return [reply for key in keys for reply in unpacked(known[key])]


def key_of(chat: Chat, conversation: Conversation, sampling: Sampling) -> str:
    """Of all that a reply depends on; where it is computed here, that is the code as well."""
    code = "" if isinstance(chat, Keeping) else _code()
    return text_digest(chat.digest, code, json_text(conversation), json_text(dataclasses.asdict(sampling)))


def packed(replies: Sequence[Reply], n: int) -> list[list[dict[str, Any]]]:
    """What is written down for each conversation."""
    return [[dataclasses.asdict(r) for r in replies[i : i + n]] for i in range(0, len(replies), n)]


def unpacked(value: Iterable[Mapping[str, Any]]) -> list[Reply]:
    return [Reply(**reply) for reply in value]


@functools.cache
def _code() -> str:
    """Of metier and the libraries below it."""
    folder = Path(metier.__file__).parent
    files = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    return text_digest(*files, *(importlib.metadata.version(name) for name in ("torch", "transformers", "peft")))


def _chunks(different: Mapping[str, Conversation], size: int) -> Iterator[list[str]]:
    """Keys of conversations of like length; their place does not depend on what is kept already."""
    keys = sorted(different, key=lambda key: (sum(len(turn["content"]) for turn in different[key]), key))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _read(base: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(keys), 500):  # SQLite takes so many values and no more
        some = keys[start : start + 500]
        for key, text in base.execute(f"SELECT key, value FROM kept WHERE key IN ({','.join('?' * len(some))})", some):
            try:
                found[key] = json.loads(text)
            except (json.JSONDecodeError, TypeError):
                continue
    return found
