"""Shares of sources as they are given: so much of the text from each.

For mixtures decided beforehand, such as a fifth of general text against forgetting; the step `blend` applies them.
Where the shares themselves are in question, compare several in a study.

    score of a source = its share / Σ shares

Options:
    shares: source → share of the text; they need not sum to 1.
Raises: MetierError for a share without a source, a source without a share, or a source without text.
"""

from __future__ import annotations

from metier import shapes
from metier.artefacts import Records, Scores
from metier.options import MetierError, Positive

EXAMPLE = {"shares": {"base": 0.7, "expert": 0.3}}


def weigh(sources: dict[str, Records], *, shares: dict[str, Positive]) -> Scores:
    """One row a source: id (its name) and score (its share of the bytes, all together 1)."""
    if set(shares) != set(sources):
        raise MetierError(f"data.mix.fixed: 'shares' must name the sources {sorted(sources)}, got {sorted(shares)}")
    for name, data in sources.items():
        if not any(shapes.words(row) for row in data):
            raise MetierError(f"data.mix.fixed: the source '{name}' holds no text")
    total = sum(shares.values())
    return Scores.from_rows({"id": name, "score": shares[name] / total} for name in sources)
