"""A small whole run killed three times ends with the same bytes; `benchmarks/kill_road.py` kills it thirty times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_road.py"


def test_killed_anywhere_the_same_command_ends_with_the_same_bytes() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--separate", "0", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] and len(found["kills"]) == 3 and found["weights"]
    assert any(kill["step"] for kill in found["kills"]), "none of them was inside training"
