"""What memory a process has taken, and what is free."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INFO = Path("/proc/meminfo")


def peak() -> int:
    """Bytes the process held at most: since ``forget_peak`` on Linux, elsewhere since it began."""
    if STATUS.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kilobytes on Linux


def forget_peak() -> None:
    """Gives back what is held and not used, and lets ``peak`` begin anew, where the system can."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        FORGET.write_text("5")
    except (OSError, AttributeError):
        return


def available() -> int | None:
    """Bytes that programs can get without swapping; Linux says, other systems do not."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", INFO.read_text(), re.MULTILINE) if INFO.exists() else None
    return int(found[1]) * 1024 if found else None
