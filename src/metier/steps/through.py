"""Records as a wrapped chat would put them to its model: training sees what inference shows.

For retrieval, dictionaries and examples in the prompt: give the very wrap that will serve, and each record's prompt is
what its model would have been asked; replies stay. The model itself is not asked and not loaded. In a conversation only
the last reply is learnt (the others get the weight 0), since only its prompt is what the wrap makes of it.

Options:
    share: of the records, how many are put through the wrap; the others stay as they are.
    seed: decides which ones.
Raises: MetierError when a record has no prompt with a reply, the chat is no wrap, or it asks its model other than once.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import ClassVar

from metier.artefacts import Records, Row
from metier.lm.chat import GREEDY, Access, Advance, Chat, Reply, Sampling, Wrapped
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError, Seed, Share
from metier.store import Work

EXAMPLE = {"chat": "$reader"}


def run(data: Records, chat: Chat, *, share: Share = 1.0, seed: Seed = 0, work: Work) -> Records:
    listener = Listener()
    heard = _over(chat, listener)
    if heard is listener:
        raise MetierError("through: the chat is a model, not a wrap around one")
    rows, changed = [], 0
    with work.progress("putting records through", len(data)) as bar:
        for row in data:
            if _draw(row["id"], seed) < share:
                made = _put(row, heard, listener)
                changed += made != row
                row = made
            rows.append(row)
            bar.advance()
    work.log(event="through", read=len(rows), changed=changed)
    return Records.from_rows(rows)


class Listener:
    """Stands where the model would and notes what it is asked."""

    ROLE: ClassVar[str] = "artefact"
    access: Access = "weights"
    digest = "listener"

    def __init__(self) -> None:
        self.answer = ""
        self.asked: list[Conversation | str] = []

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        self.asked += conversations
        return [Reply(self.answer, 1, None, "stop") for _ in range(len(conversations) * sampling.n)]

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        self.asked += prompts
        return [LogProb(0.0, 1) for _ in prompts]

    def close(self) -> None: ...


def _over(chat: Chat, listener: Listener) -> Chat:
    """The same wraps around the listener."""
    if not isinstance(chat, Wrapped):
        return listener
    wrap = copy.copy(chat)
    wrap.chat = _over(chat.chat, listener)
    return wrap


def _put(row: Row, chat: Chat, listener: Listener) -> Row:
    prompt, reply = row.get("prompt"), row.get("completion")
    turns = [{k: v for k, v in turn.items() if v is not None} for turn in row.get("messages") or []]
    if turns and turns[-1]["role"] == "assistant":
        prompt, reply = [{"role": t["role"], "content": t["content"]} for t in turns[:-1]], turns[-1]["content"]
    if not prompt or reply is None:
        raise MetierError(f"through: record {row['id']!r} has no prompt with a reply")
    listener.answer, listener.asked = reply, []
    if isinstance(prompt, str):
        chat.logprobs([prompt], [reply])
    else:
        chat.reply([prompt])
    if len(listener.asked) != 1:
        raise MetierError(f"through: for record {row['id']!r} the wrap asks its model {len(listener.asked)} times, so "
                          f"there is no one prompt to learn from")  # fmt: skip
    asked = listener.asked[0]
    if asked == prompt:
        return row
    if not turns or isinstance(asked, str):
        return row | {"prompt": asked}
    return row | {"messages": [*map(_silent, asked), turns[-1]]}


def _silent(turn: dict[str, str]) -> dict[str, object]:
    return {**turn, "weight": 0.0} if turn["role"] == "assistant" else {**turn}


def _draw(name: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the record alone, not on those before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()[:8], "big") / 2**64
