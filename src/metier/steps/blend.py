"""Sources mixed so that each has the share of the text that a mix method gave it.

The column `source` says where a record came from. The source that would run out first is used whole, the others are
sampled down to keep the shares, document by document. A source with a reason instead of a score is left out.

Options:
    seed: decides which records are sampled.
Raises: MetierError when the scores do not name the sources, no source is left, or one of them is empty.
"""

from __future__ import annotations

import random

from metier import shapes
from metier.artefacts import Records, Scores
from metier.options import MetierError, Seed
from metier.store import Work

EXAMPLE = {"scores": "$shares"}


def run(sources: dict[str, Records], scores: Scores, *, seed: Seed = 0, work: Work) -> Records:
    by_name = {row["id"]: row for row in scores}
    if set(by_name) != set(sources):
        raise MetierError(f"blend: the scores must be of the sources {sorted(sources)}, got {sorted(by_name)}")
    shares = {name: by_name[name]["score"] for name in sources if by_name[name]["score"]}
    if min(shares.values(), default=0.0) <= 0:
        raise MetierError(f"blend: no share of a source may be below 0 and one must be above, got {shares}")
    for name in (n for n in sources if n not in shares):
        work.log(event="blend", source=name, read=0, kept=0, reason=by_name[name]["reason"] or "a share of 0")
    rows = {name: list(sources[name]) for name in shares}
    sizes = {name: sum(len(shapes.words(r).encode()) for r in rows[name]) for name in rows}
    for name, size in sizes.items():
        if not size:
            raise MetierError(f"blend: the source '{name}' holds no text")
    total = sum(shares.values())
    scale = min(sizes[name] / (shares[name] / total) for name in rows)
    mixed = []
    for name in shares:
        whole = sorted({r.get("document") or r["id"] for r in rows[name]})
        random.Random(f"{seed}:{name}").shuffle(whole)
        rank = {document: i for i, document in enumerate(whole)}
        budget, taken = scale * shares[name] / total, 0
        chosen = set()
        for row in sorted(rows[name], key=lambda r: rank[r.get("document") or r["id"]]):
            if taken < budget:
                taken += len(shapes.words(row).encode())
                chosen.add(row["id"])
        mixed += [row | {"id": f"{name}:{row['id']}", "source": name} for row in rows[name] if row["id"] in chosen]
        work.log(event="blend", source=name, read=sizes[name], kept=taken)
    return Records.from_rows(mixed)
