"""TRL's SFTTrainer, in an environment of its own: ``python train_trl.py '{settings}'``; see ``training.py``.

Chats are given as text, rendered prompt and reply: TRL then supervises the reply and its end, as metier does. (As
messages it would supervise the newline behind the end as well.) What is not named here is as TRL sets it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from benchmarks.harness import Round, serve
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Seconds from the beginning of the step to its end: no loading, no tokenising."""

    seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.begun


def example(tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    if "input_ids" in row:
        return {"input_ids": row["input_ids"]}
    prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "completion": row["messages"][-1]["content"]}


def main() -> None:
    given = json.loads(sys.argv[1])
    rounds = enumerate(Path(given["data"]).read_text(encoding="utf-8").splitlines())
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    lora = LoraConfig(r=given["rank"], lora_alpha=given["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    datasets.disable_progress_bars()

    def work() -> Round:
        number, line = next(rounds)
        rows = [example(tokenizer, row) for row in json.loads(line)]
        with tempfile.TemporaryDirectory() as place:
            settings = SFTConfig(
                place, per_device_train_batch_size=given["micro_rows"],
                gradient_accumulation_steps=len(rows) // given["micro_rows"], max_steps=1, seed=number,
                learning_rate=given["rate"], lr_scheduler_type="constant",
                bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, **given.get("trl", {}),
            )  # fmt: skip
            clock = Clock()
            trainer = SFTTrainer(
                AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32), settings,
                train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock],
                peft_config=lora if given["kind"] == "lora" else None,
            )  # fmt: skip
            loss = trainer.train().training_loss
        supervised = sum(label != -100 for labels in trainer.train_dataset["labels"] for label in labels[1:])
        return {"loss": loss, "supervised": supervised, "seconds": clock.seconds, "rate": supervised / clock.seconds}

    serve(work)


if __name__ == "__main__":
    main()
