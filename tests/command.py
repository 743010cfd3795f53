"""The command line run in this process, and processes that may do no more than a user may."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from unittest import mock

import pytest

from metier import cli


def told(arguments: list[str]) -> tuple[object, str]:
    """Exit code and standard error."""
    err = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["metier", *arguments]),
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    return stop.value.code, err.getvalue()


def as_a_user() -> None:
    """Before a process begins (``preexec_fn``, Linux): root passes over permissions by capabilities 1 and 2 alone."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
