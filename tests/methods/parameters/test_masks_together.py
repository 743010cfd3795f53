"""Two processes mask the same numbers: what one process trains is what two train."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from safetensors.torch import load_file

from metier.laws import toy as maker

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RECIPE = """
notes: {{use: data.ingest.records, source: [{place}/notes.jsonl]}}
base: {{use: model, path: {model}}}
random: {{use: train.loop.sft, model: $base, data: $notes, epochs: 2, batch: 10, micro_tokens: 90, precision: fp32,
          optimizer: {{use: sgd, lr: 0.1}}, parameters: {{use: gradient_mask, keep: 0.3, by: random, strict: true}}}}
soft: {{use: train.loop.sft, model: $base, data: $notes, epochs: 2, batch: 10, micro_tokens: 90, precision: fp32,
        optimizer: {{use: sgd, lr: 0.1}}, parameters: {{use: soft_mask, alpha: 0.5, beta: 1}}}}
"""


def trained(place, model, launcher):
    place.mkdir()
    rows = [{"messages": row["messages"]} for row in maker.questions(30)]
    (place / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "recipe.yaml").write_text(RECIPE.format(place=place, model=model.path))
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "metier", "run", str(place / "recipe.yaml"), "--json"],
        capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "METIER_HOME": str(place / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    steps = {row["step"]: row["key"] for row in json.loads(done.stdout)}
    return {
        n: load_file(place / "home" / "steps" / steps[n] / "model" / "model.safetensors") for n in ("random", "soft")
    }


def test_two_processes_mask_as_one_does(toy, tmp_path):
    before = load_file(toy.path / "model.safetensors")
    one, two = trained(tmp_path / "one", toy, []), trained(tmp_path / "two", toy, TORCHRUN)
    for name in one:
        apart = sum(int(((one[name][n] - two[name][n]).abs() > 1e-5).sum()) for n in before)
        moved = sum(int((one[name][n] != before[n]).sum()) for n in before)
        # The look at the data adds up in another order, so a draw at the border may fall otherwise.
        assert moved > 5000 and apart <= (0 if name == "random" else 0.001 * moved), (name, apart, moved)
