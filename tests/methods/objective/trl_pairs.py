"""TRL's preference losses on given tokens, in an environment of its own: ``python trl_pairs.py '{…}'`` prints JSON."""

from __future__ import annotations

import json
import sys
import tempfile

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    given = json.loads(sys.argv[1])
    datasets.disable_progress_bars()
    inputs = {name: torch.tensor(given[name]) for name in ("input_ids", "attention_mask", "completion_mask")}
    tokenizer = AutoTokenizer.from_pretrained(given["start"])
    found = []
    for case in given["cases"]:
        with tempfile.TemporaryDirectory() as place:
            start, now = (AutoModelForCausalLM.from_pretrained(given[k], dtype=torch.float32) for k in ("start", "now"))
            trainer = DPOTrainer(
                now, start, DPOConfig(place, report_to="none", bf16=False, use_cpu=True, disable_tqdm=True, **case),
                train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
                processing_class=tokenizer,
            )  # fmt: skip
            loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
            found.append([float(loss.detach()), float(norm)])
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
