"""Drops exact and near duplicates; of each pair the chunk of the longer document stays.

For any collection of documents: copies, versions, quoted licences and boilerplate would otherwise be learnt several
times over, and would leak from train to test. Candidates come from MinHash signatures in a banded index; each pair is
then decided by its true similarity, so the signatures only cost recall, never precision. Not for paraphrases.

    J(a, b) = |A ∩ B| / |A ∪ B|,  A, B = the sets of 5-grams of words          near duplicate: J ≥ at

Texts are compared in lower case with everything but letters and digits left out. Records are gone through from the
longest document (then id) to the shortest, and one goes when it duplicates one that stayed; the result does not depend
on their order. The score is 1 - the greatest similarity to a record before it that was compared.

Options:
    at: the similarity from which a chunk counts as a near duplicate.
Raises: MetierError when the records have no column ``text``.
Differs: signatures by rensa (one permutation, then cheap remixing, in Rust) instead of datasketch.
Paper: Broder 1997, On the resemblance and containment of documents.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from rensa import RMinHash, RMinHashLSH

from metier.artefacts import Records, Scores
from metier.disk import text_digest
from metier.options import Share
from metier.text.leakfree import WORD, Shingles, shingles

N = 5
PERMUTATIONS = 128
BANDS = 32  # with 4 rows each: a pair of similarity 0.7 is found with probability 0.9998, one of 0.5 with 0.87


def score(data: Records, *, at: Share = 0.85) -> Scores:
    """One row a record: a score, or ``exact duplicate of <id>`` or ``near duplicate of <id>``."""
    ids, texts = data.column("id"), data.column("text")
    owners = data.column("document") if "document" in data.columns else ids
    weight: Counter[str] = Counter()
    for owner, text in zip(owners, texts, strict=True):
        weight[owner] += len(text)
    same: dict[str, str] = {}  # digest of the words → id
    stayed: dict[str, Shingles] = {}
    index = RMinHashLSH(threshold=at, num_perm=PERMUTATIONS, num_bands=BANDS)
    rows: dict[str, tuple[float | None, str | None]] = {}
    for i in sorted(range(len(ids)), key=lambda i: (-weight[owners[i]], ids[i])):
        words = WORD.findall(texts[i].lower())
        digest = text_digest(*words) if words else text_digest("", texts[i])
        if digest in same:
            rows[ids[i]] = None, f"exact duplicate of {same[digest]}"
            continue
        signature = RMinHash(num_perm=PERMUTATIONS, seed=1)
        signature.update([" ".join(words[k : k + N]) for k in range(max(len(words) - N + 1, 1))])
        grams = shingles(texts[i], N)
        similar = ((jaccard(grams, stayed[ids[j]]), ids[j]) for j in index.query(signature))
        closest, other = max(similar, default=(0.0, ""))
        if closest >= at and other:
            rows[ids[i]] = None, f"near duplicate of {other}"
            continue
        same[digest], stayed[ids[i]] = ids[i], grams
        index.insert(i, signature)
        rows[ids[i]] = 1 - closest, None
    return Scores.from_rows({"id": i, "score": rows[i][0], "reason": rows[i][1]} for i in ids)


def jaccard(a: Shingles, b: Shingles) -> float:
    """What two sorted sets have in common, as a share of their union."""
    common = np.intersect1d(a, b, assume_unique=True).size
    return float(common / max(len(a) + len(b) - common, 1))
