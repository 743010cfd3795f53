"""Sources mixed so that each has its share of the text.

The column `source` says where a record came from. The source that would run out first is used whole, the others are
sampled down to keep the shares, document by document.

Options:
    shares: source → share of the bytes; they are normalised to 1.
    seed: decides which records are sampled.
Raises: MetierError for a share without a source, or an empty source.
"""

from __future__ import annotations

import random

from metier.artefacts import Records
from metier.options import MetierError, Positive, Seed
from metier.store import Work


def run(sources: dict[str, Records], *, shares: dict[str, Positive], seed: Seed = 0, work: Work) -> Records:
    if set(shares) != set(sources):
        raise MetierError(f"blend: 'shares' must name the sources {sorted(sources)}, got {sorted(shares)}")
    total = sum(shares.values())
    rows = {name: list(data) for name, data in sources.items()}
    sizes = {name: sum(len(r["text"].encode()) for r in rows[name]) for name in rows}
    for name, size in sizes.items():
        if not size:
            raise MetierError(f"blend: the source '{name}' holds no text")
    scale = min(sizes[name] / (shares[name] / total) for name in rows)
    mixed = []
    for name in sources:
        whole = sorted({r.get("document") or r["id"] for r in rows[name]})
        random.Random(f"{seed}:{name}").shuffle(whole)
        rank = {document: i for i, document in enumerate(whole)}
        budget, taken = scale * shares[name] / total, 0
        chosen = set()
        for row in sorted(rows[name], key=lambda r: rank[r.get("document") or r["id"]]):
            if taken < budget:
                taken += len(row["text"].encode())
                chosen.add(row["id"])
        mixed += [row | {"id": f"{name}:{row['id']}", "source": name} for row in rows[name] if row["id"] in chosen]
        work.log(event="blend", source=name, read=sizes[name], kept=taken)
    return Records.from_rows(mixed)
