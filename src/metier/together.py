"""A recipe run by several processes of a launcher such as torchrun: they train together, the first does the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from accelerate.utils import broadcast_object_list

from metier import options
from metier.calls import Call
from metier.options import MetierError
from metier.runner import Done, Runner
from metier.store import Progress, Store, Work, silent
from metier.train.state import accelerator

LOOK = 0.2  # seconds between looks for what the first process makes


def runner(store: Store, progress: Progress, done: Mapping[str, Done], begun: float) -> Runner:
    """The Runner of this process's part."""
    kind = First if accelerator().is_main_process else Follower
    return kind(store, progress, done, begun)


class First(Runner):
    """Computes every step, and tells the others when a training begins and what came of steps they cannot see."""

    def step(self, call: Call) -> Done:
        done = super().step(call)
        if call.method.returns != "Chat" and self.always(call):
            _told(done.digest)
        return done

    def agree(self, call: Call, computes: bool) -> None:
        if trains(call):
            _told(computes)


class Follower(Runner):
    """Trains with the first process, in its folder, and finds in the store what that one has made."""

    def step(self, call: Call) -> Done:
        if call.method.returns == "Chat":
            return super().step(call)
        key = self.key(call)
        if self.always(call):
            return self._finish(call, key, _told(None), 0.0, False, 0, lambda: _unseen(call))
        if trains(call) and _told(None):
            self.compute(call, Work(self.store.part(key), silent, list(self.done.values()), self.begun))
        while (manifest := self.store.manifest(key)) is None:  # a launcher stops us when the first process fails
            time.sleep(LOOK)
        return self._finish(call, key, manifest["digest"], manifest["seconds"], True,
                            manifest["peak_memory_bytes"], lambda: self.store.load(key))  # fmt: skip


def trains(call: Call) -> bool:
    return any(p.kind == "spread" for p in options.parameters(call.function))


def _told(value: Any) -> Any:
    """What the first process says, in all of them."""
    return broadcast_object_list([value])[0]


def _unseen(call: Call) -> Any:
    raise MetierError(f"{call.name}: what {call.method.name} gives is only known in the first process")
