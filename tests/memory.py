"""How much memory reading a folder takes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

READ = """
import importlib, re, sys, threading, time
from pathlib import Path
from metier.store import Work
kind, folder = sys.argv[1:]
most, over = 0, False

def watch():
    global most
    while not over:
        most = max(most, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.005)

watcher = threading.Thread(target=watch)
watcher.start()
method = importlib.import_module("metier.data.ingest." + kind)
try:
    data = method.read([folder + "/in"], work=Work(Path(folder) / "work"))
    data.save(Path(folder) / "saved")
    print(len(data), data.digest[:8])
except Exception as error:
    print(type(error).__name__, error)
over = True
watcher.join()
print(most)
"""


def peak(kind: str, folder: Path) -> tuple[str, int]:
    """What came of ``folder/in``, and the peak in MiB, without the pages of mapped files, which may be let go."""
    done = subprocess.run([sys.executable, "-c", READ, kind, str(folder)], capture_output=True, text=True, timeout=900)
    result, most = done.stdout.strip().rsplit("\n", 1)
    return result, int(most) // 1024
