"""The command `metier` from a process that has loaded its libraries: forty commands would load them forty times.

``python served.py SOCKET`` waits there; each command that arrives runs in a fork, with the files, the folder and the
environment of the one who sent it. ``stub`` is the text of a program that sends its own arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import TextIO, cast

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "matplotlib.pyplot", "markitdown",
             "metier.road", "metier.preflight", "metier.trial", "metier.study", "metier.masks", "metier.talk",
             "metier.laws.run")  # fmt: skip


def stub(place: str) -> str:
    return f"""#!{sys.executable} -S
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as there:
    there.connect({place!r})
    said = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(there, [said], [0, 1, 2])
    there.shutdown(socket.SHUT_WR)
    sys.exit(int(there.recv(8)))
"""


def serve(place: str) -> None:
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError:  # one that is not needed here
            continue
    from metier.__main__ import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(place)
        here.listen()
        while True:
            there, _ = here.accept()
            with there:
                said, files, _, _ = socket.recv_fds(there, 1 << 20, 3)
                while more := there.recv(1 << 20):
                    said += more
                if os.fork() == 0:
                    code = _run(main, *json.loads(said), files)
                    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
                        there.sendall(str(code).encode())
                    os._exit(0)
                for file in files:
                    os.close(file)


def _run(
    main: Callable[[], None], arguments: list[str], folder: str, environment: dict[str, str], files: list[int]
) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
    # Streams know whether their file can be sought in, so the old ones will not do.
    sys.stdin, sys.stdout, sys.stderr = _opened(0, "r"), _opened(1, "w"), _opened(2, "w")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["metier", *arguments[1:]]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _opened(number: int, mode: str) -> TextIO:
    return cast(TextIO, open(number, mode, buffering=1, closefd=False))


if __name__ == "__main__":
    serve(sys.argv[1])
