from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_killed_three_times_it_ends_with_the_same_bytes(tmp_path):
    """LoRA dropout, accumulation, cosine schedule, two epochs, dev; SIGKILL at random moments."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill.py")), str(tmp_path), "3", "1"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["equal"], row
    assert any(0 < step < row["steps"] for step in row["killed_at"]), row
