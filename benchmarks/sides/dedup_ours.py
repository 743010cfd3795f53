"""``data.select.distinct`` and ``keep`` on a jsonl corpus: a round is from the texts in memory to the ids that went."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}

import pyarrow as pa
from benchmarks.harness import Round, serve

from metier.artefacts import Records
from metier.data.select import distinct
from metier.steps import keep
from metier.store import Work

pa.set_cpu_count(1)
data = Records.from_rows(json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())


def work() -> Round:
    with tempfile.TemporaryDirectory() as folder:
        place = Work(Path(folder))
        begun = time.perf_counter(), time.process_time()
        kept = keep.run(data, distinct.score(data, work=place), work=place)
        dropped = set(data.column("id")) - set(kept.column("id"))
        return {"seconds": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1],
                "dropped": sorted(dropped)}  # fmt: skip


serve(work)
