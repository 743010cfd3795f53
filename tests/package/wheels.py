"""Builds the wheel and installs it where no checkout and no network is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Whoever asks for another machine is written down and refused, whatever a library makes of the refusal.
NO_NETWORK = """
import socket
connect = socket.socket.connect
def ask(host, *rest, **named):
    with open({asked!r}, "a") as file:
        file.write(f"{{host}}\\n")
    raise OSError("no network in this test")
def of_this_machine(self, address):
    return ask(address) if self.family in (socket.AF_INET, socket.AF_INET6) else connect(self, address)
socket.socket.connect = of_this_machine
socket.getaddrinfo = ask
"""


def build(source: Path, to: Path, *kinds: str) -> dict[str, Path]:
    """Wheel and sdist of a source folder, by their endings; the backend is a development dependency."""
    targets = [part for kind in kinds for part in ("-t", kind)]
    run(sys.executable, "-m", "hatchling", "build", "-d", to, *targets, cwd=source)
    return {path.suffix: path for path in to.iterdir()}


def install(wheel: Path, folder: Path) -> Path:
    """The Python of an environment that holds the wheel alone, with the dependencies of the running one below it.

    The editable checkout stays out: a line of a ``.pth`` file adds a folder, but not what the files in it point to.
    What asks for the network is written to ``folder``/asked.
    """
    environment = folder / "env"
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    quietly = ["--quiet", "--no-deps", "--no-index", "--no-compile"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *quietly, wheel)
    [site] = (environment / "lib").glob("python*/site-packages")
    (site / "no_network.py").write_text(NO_NETWORK.format(asked=str(folder / "asked")))
    (site / "below.pth").write_text(f"import no_network\n{sysconfig.get_path('purelib')}\n")
    return python


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """What a command that succeeds prints; without the word that the network is off."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "PYTHONPATH")} | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
