"""The four stages of datatrove's MinHash on a jsonl corpus, one after another in this process.

A round is from the texts in memory to the ids that went. The second argument says where words end: as its *english*
tokenizer finds, or at *blanks*.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Round, serve
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]


class Blanks(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    sent_tokenize = span_tokenize = word_tokenize


def texts(*_: object) -> Iterator[Document]:
    for row in rows:
        yield Document(text=row["text"], id=row["id"])


def work() -> Round:
    kept: list[str] = []

    def collect(documents: Iterator[Document], *_: object) -> None:
        kept.extend(document.id for document in documents)

    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),  # it tells a page a task
    ):
        signed, paired, gone = (f"{folder}/{name}" for name in ("signatures", "pairs", "clusters"))
        begun = time.perf_counter(), time.process_time()
        signature = MinhashDedupSignature(signed, CONFIG)
        if sys.argv[2] == "blanks":
            signature.word_tokenizer = Blanks()
        for tasks, stage in (
            (1, [texts, signature]),
            (CONFIG.num_buckets, [MinhashDedupBuckets(signed, paired, config=CONFIG)]),  # it wants a task a bucket
            (1, [MinhashDedupCluster(paired, gone, config=CONFIG)]),
            (1, [texts, MinhashDedupFilter(gone), collect]),
        ):
            LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=tempfile.mkdtemp(dir=folder)).run()
        dropped = {row["id"] for row in rows} - set(kept)
        return {"seconds": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1],
                "dropped": sorted(dropped)}  # fmt: skip


serve(work)
