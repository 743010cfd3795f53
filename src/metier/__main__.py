"""Where the command begins: Ctrl-C and SIGTERM end in one sentence, from the first import to the last line."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

GOES_ON = ("adapt", "run", "study")  # commands that find again what they had computed


def main() -> None:
    """The command line. Stopped by a signal it says so and exits with 130 (Ctrl-C) or 143 (SIGTERM)."""
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:  # somebody swallowed the first
            _leave(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for stream, way in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no UTF-8 is no reason to fail
            stream.reconfigure(errors=way)
    code: object = 0
    try:
        from metier import cli

        cli.main()
    except SystemExit as end:
        code = 128 + caught[0] if caught else end.code
    except BaseException:  # in the midst of an import an interrupt may surface as anything
        if not caught:
            raise
        _leave(caught[0])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # nothing is at work any more
    sys.exit(_written(code))  # type: ignore[arg-type]


def _written(code: object) -> object:
    """Writes out what is left for standard output, and returns the exit code: ``code``, unless that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python itself would try again and complain
        if isinstance(error, BrokenPipeError):  # `metier list | head` has read enough
            return code or 1
        if not code:
            print(f"metier: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return code


def _leave(number: int) -> None:
    """At once: unloading the libraries takes seconds and may meet the interrupt again."""
    goes_on = "; the same command goes on from here" if set(GOES_ON) & set(sys.argv[1:]) else ""
    print(f"\nmetier: stopped{goes_on}", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
