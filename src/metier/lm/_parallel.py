"""Waiting for many slow answers at once, in threads that nobody waits for at the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def side_by_side(
    wanted: dict[str, T], one: Callable[[T, threading.Event], Any], parallel: int
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Results as they come. After a fault what is under way still comes, and nothing new is begun.

    Threads end with the process: Ctrl-C must not wait for a slow server.
    """
    stopping = threading.Event()
    waiting: queue.SimpleQueue[tuple[str, T]] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[str, Any, BaseException | None] | None] = queue.SimpleQueue()
    for item in wanted.items():
        waiting.put(item)

    def work() -> None:
        while not stopping.is_set():
            try:
                key, value = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                finished.put((key, one(value, stopping), None))
            except BaseException as error:  # raised again where the results are taken
                stopping.set()
                finished.put((key, None, error))
        finished.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(parallel, len(wanted)))]
    first: BaseException | None = None
    try:
        for thread in threads:
            thread.start()
        going = len(threads)
        while going:
            result = finished.get()
            if result is None:
                going -= 1
            elif result[2] is None:
                yield result[0], result[1]
            else:
                first = first or result[2]
        if first is not None:
            raise first
    finally:
        stopping.set()
