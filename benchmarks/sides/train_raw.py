"""A loop of one's own over transformers and PyTorch: ``python train_raw.py '{settings}'``; see ``training.py``.

Micro-batches of a DataLoader that shuffles and pads, labels masked, the loss divided by the supervised tokens of the
whole step, gradients clipped, fused AdamW.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.harness import Round, serve
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100
Example = dict[str, list[int]]


def example(tokenizer: Any, row: dict[str, Any]) -> Example:
    """Ids and labels; the prompt of a chat is not supervised, nor what the template puts behind the reply's end."""
    if "input_ids" in row:
        return {"input_ids": row["input_ids"], "labels": row["input_ids"]}
    prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = tokenizer(row["messages"][-1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return {"input_ids": asked + reply, "labels": [IGNORED] * len(asked) + reply}


def supervised(rows: list[Example]) -> int:
    return sum(label != IGNORED for row in rows for label in row["labels"][1:])


def padded(rows: list[Example]) -> dict[str, torch.Tensor]:
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def main() -> None:
    given = json.loads(sys.argv[1])
    rounds = enumerate(Path(given["data"]).read_text(encoding="utf-8").splitlines())
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lora = LoraConfig(r=given["rank"], lora_alpha=given["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")

    def work() -> Round:
        number, line = next(rounds)
        torch.manual_seed(number)
        rows = [example(tokenizer, row) for row in json.loads(line)]
        model: Any = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32).to(device)
        model = get_peft_model(model, lora) if given["kind"] == "lora" else model
        model.train()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=given["rate"], weight_decay=0.0, fused=True)
        size, losses = len(rows) // given["steps"], []
        begun = time.perf_counter()
        for start in range(0, len(rows), size):
            step = rows[start : start + size]
            total = torch.zeros((), device=device)
            for batch in DataLoader(step, batch_size=given["micro_rows"], shuffle=True, collate_fn=padded):
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                with torch.autocast(device, torch.bfloat16, enabled=given["precision"] == "bf16"):
                    loss = model(**batch, num_items_in_batch=supervised(step), use_cache=False).loss
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(total))
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        count = supervised(rows)
        return {"loss": losses[0], "supervised": count, "seconds": seconds, "rate": count / seconds}

    serve(work)


if __name__ == "__main__":
    main()
