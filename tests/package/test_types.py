"""A user's strict mypy sees the types of the installed package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USER = """\
from pathlib import Path

from metier import recipe, runner
from metier.artefacts import Records
from metier.store import Store, home


def words(path: Path) -> int:
    calls = recipe.check(recipe.parse(recipe.text_of(path), path.name, {"out.to": "expert"}), path.name)
    done = runner.run(calls, Store(home()))
    rows: Records = done["chunks"].open()
    seconds: str = done["chunks"].seconds
    return sum(len(str(row["text"]).split()) for row in rows)
"""


def test_strict_mypy_accepts_right_use_and_refuses_wrong(python: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(python)]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.stdout.splitlines() == [
        'user.py:12: error: Incompatible types in assignment (expression has type "float", variable has type "str")  '
        "[assignment]",
        "Found 1 error in 1 file (checked 1 source file)",
    ], done.stdout + done.stderr
