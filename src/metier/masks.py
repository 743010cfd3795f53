"""What a model is trained on in a file of records: the supervised tokens, marked, and what is dropped and why."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Row
from metier.data.ingest import records as ingest
from metier.lm import load, tokens
from metier.lm.loss import IGNORED
from metier.store import Work, home

COUNTED = 1000  # records whose tokens are counted


@dataclasses.dataclass(frozen=True)
class Shown:
    """A record as a model sees it: stretches of text and whether they are learnt, of the tokens that are not cut off.

    ``dropped`` is why it is not trained on, or None. A record with several replies is shown once for each.
    """

    id: str
    pieces: list[tuple[str, bool]]
    tokens: int
    supervised: int
    cut: int
    dropped: str | None


def rows(path: Path, model: str = "smollm2", count: int = 3, length: int = 1024) -> tuple[list[Shown], dict[str, Any]]:
    """The first records of a file, and the totals of the first 1000: records, tokens, supervised, dropped by reason.

    Raises MetierError for a file that cannot be read, or a record a model cannot be trained on.
    """
    tokenizer = load.tokenizer_of(load.resolve(model, Work(home() / "models")))
    shown: list[Shown] = []
    totals: dict[str, Any] = {"records": 0, "tokens": 0, "supervised": 0}
    dropped: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        data = ingest.read(source=[str(path)], work=Work(Path(folder)))
        for record in itertools.islice(_trained(iter(data)), COUNTED):
            found = _shown(tokenizer, record, length, len(shown) < count)
            if len(shown) < count:
                shown.append(found)
            totals["records"] += 1
            if found.dropped:
                dropped[found.dropped] += 1
            else:
                totals["tokens"] += found.tokens
                totals["supervised"] += found.supervised
    return shown, totals | {"dropped": dict(dropped)}


def show(path: Path, model: str = "smollm2", count: int = 3, length: int = 1024, as_json: bool = False) -> None:
    """Prints them: what is learnt in colour, or in ⟦…⟧ where there is none."""
    shown, totals = rows(path, model, count, length)
    if as_json:
        print(json.dumps({"records": [dataclasses.asdict(one) for one in shown], "totals": totals}, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    colour = console.is_terminal and "NO_COLOR" not in os.environ
    for one in shown:
        fate = f"dropped: {one.dropped}" if one.dropped else f"{one.supervised} of {one.tokens} tokens are learnt"
        console.print(f"── {one.id}: {fate}" + (f", {one.cut} are cut off" if one.cut else ""))
        console.print(_marked(one.pieces, colour))
    share = totals["supervised"] / max(1, totals["tokens"])
    console.print(f"\n{totals['records']} records, {totals['tokens']} tokens, {share:.0%} of them learnt")
    for reason, number in totals["dropped"].items():
        console.print(f"{number} dropped: {reason}")


def _trained(data: Iterator[Row]) -> Iterator[Row]:
    """Records as they are learnt from: every reply of a preference is one."""
    for row in data:
        if row.get("replies") is None:
            yield row
        for reply, score in zip(row.get("replies") or [], row.get("scores") or [], strict=False):
            yield {"id": f"{row['id']} (score {score:g})", "prompt": row.get("prompt"), "completion": reply}


def _shown(tokenizer: PreTrainedTokenizerBase, record: Row, length: int, read: bool) -> Shown:
    ids, labels = tokens.supervised(tokenizer, record)
    kept = min(len(ids), length)
    learnt = [k > 0 and label != IGNORED for k, label in enumerate(labels[:kept])]
    pieces, before = [], ""
    for end in [k for k in range(1, kept + 1) if k == kept or learnt[k] != learnt[k - 1]] if read else []:
        text = tokenizer.decode(ids[:end])  # whole beginnings: a token may hold a part of a character
        pieces.append((text[len(before) :], learnt[end - 1]))
        before = text
    return Shown(str(record["id"]), pieces, kept, sum(learnt), len(ids) - kept, tokens.unlearnable(labels, length))


def _marked(pieces: list[tuple[str, bool]], colour: bool) -> Text:
    text = Text()
    for piece, learnt in pieces:
        text.append(piece if colour or not learnt else f"⟦{piece}⟧", "black on green" if learnt and colour else "")
    return text
