"""A study on the toy model that takes seconds: two arms, two grid points, two seeds."""

from __future__ import annotations

from pathlib import Path

STUDY = """\
title: What more steps buy
about: Does the toy model learn its documents better with more steps?
paper: 8
recipe:
  base: {use: model, path: MODEL}
  chunks: {use: data.ingest.documents, source: [DOCS]}
  divided: {use: split, data: $chunks, dev: 0.1, test: 0.4}
  domain: {use: tasks.documents, data: $divided, cloze: 0, questions: 0}
  expert: {use: train.loop.pretrain, model: $base, data: $domain.train, steps: 2, batch: 4, length: 64,
           parameters: full, optimizer: {use: adamw, lr: 1e-3}}
  report: {use: evaluate.compare, chats: {expert: $expert}, tasks: [$domain]}
arms:
  short: {}
  long: {expert.steps: 30}
grid:
  expert.optimizer.lr: [1e-3, 1e-2]
seeds: [0, 1]
claims:
  - {says: More steps foresee more, minus: short, metric: domain.bits_per_byte, holds: "< 0"}
"""


def written(place: Path, model: Path, documents: Path, changes: dict[str, str] | None = None) -> Path:
    """The study as a file in ``place``, with texts replaced."""
    text = STUDY.replace("MODEL", str(model)).replace("DOCS", str(documents))
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    (place / "study.yaml").write_text(text, encoding="utf-8")
    return place / "study.yaml"
