"""Drops exact and near duplicates; of each pair the chunk of the longer document stays.

For any collection of documents: copies, versions, quoted licences and boilerplate would otherwise be learnt several
times over, and would leak from train to test. Candidates come from MinHash signatures in a banded index; each pair is
then decided by its true similarity, so the signatures only cost recall, never precision. Not for paraphrases.

    J(a, b) = |A ∩ B| / |A ∪ B|,  A, B = the sets of 5-grams of words          near duplicate: J ≥ at

Texts are compared in lower case with everything but letters and digits left out. Records are gone through from the
longest document (then id) to the shortest, and one goes when it duplicates one that stayed; the result does not depend
on their order. The score is 1 - the greatest similarity to a record before it that was compared.

Signatures lie in a file and the index is made band by band, so that memory holds about 60 bytes a record, and some 400
more for one that has duplicates.

Options:
    at: the similarity from which a chunk counts as a near duplicate.
Raises: MetierError when the records have no column ``text``, or one of them no text.
Differs: signatures by rensa (one permutation, then cheap remixing, in Rust) instead of datasketch.
Paper: Broder 1997, On the resemblance and containment of documents.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rensa import RMinHash

from metier.artefacts import Records, Scores
from metier.data.select._bands import BANDS, Array, Index, alike, mapped
from metier.options import MetierError, Share
from metier.store import Work
from metier.text.grams import BASE, Hashes, digest, ngrams, shingles, words

N = 5
PERMUTATIONS = 128
PRINT = np.dtype([("document", "u8"), ("length", "u8"), ("words", "u8"), ("bands", "u8", BANDS)])
AT_ONCE = 1024  # records


def score(data: Records, *, at: Share = 0.85, work: Work) -> Scores:
    """One row a record: a score, or ``exact duplicate of <id>`` or ``near duplicate of <id>``."""
    ids, texts = data.array("id"), data.array("text")
    if texts.null_count:
        raise MetierError(f"data.select.distinct: {texts.null_count} of {len(texts)} records have no text")
    prints = _prints(data, work)
    order = _order(data, prints)  # a record's place: where it stands in this order
    first = _first(prints["words"][order])

    @functools.lru_cache(maxsize=AT_ONCE)
    def grams(place: int) -> Hashes:
        return shingles(texts[order[place]].as_py(), N)

    index = Index(prints["bands"], order, first == np.arange(len(first)), work.folder / "bands")
    near, closest = np.full(len(order), -1, np.int32), np.zeros(len(order))
    for place in np.flatnonzero(index.shares).tolist():
        similar = {other: jaccard(grams(place), grams(other)) for other in index.near(place)}
        closest[place] = max(similar.values(), default=0.0)
        if similar and closest[place] >= at:
            near[place] = max(similar, key=lambda other: similar[other])
        else:
            index.add(place)

    del index
    exact = (near[first] < 0) & (first != np.arange(len(first)))  # else a copy goes like the record it copies
    other = np.where(exact, first, near[first])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    gone = other >= 0
    found = zip(order[gone].tolist(), order[other[gone]].tolist(), exact[gone].tolist(), strict=True)
    why = {row: f"{'exact' if same else 'near'} duplicate of {ids[kept].as_py()}" for row, kept, same in found}
    reasons = [pa.array([why.get(row) for row in range(start, min(start + AT_ONCE, len(ids)))], pa.string())
               for start in range(0, len(ids), AT_ONCE)]  # fmt: skip
    scores = pa.array(1 - closest[place], mask=gone[place])
    return Scores(pa.table({"id": ids, "score": scores, "reason": pa.chunked_array(reasons, pa.string())}))


def jaccard(a: Hashes, b: Hashes) -> float:
    """What two sorted sets have in common, as a share of their union."""
    common = np.intersect1d(a, b, assume_unique=True).size
    return float(common / max(len(a) + len(b) - common, 1))


def _prints(data: Records, work: Work) -> Array:
    """What is compared of every record, from a file that goes when it is let go."""
    path = work.folder / "prints"
    columns = ["id", "text"] + ["document"] * ("document" in data.columns)
    with path.open("wb") as stream, work.progress("signatures of texts", len(data)) as bar:
        for batch in data.table.select(columns).to_batches(max_chunksize=AT_ONCE):
            prints = _printed(batch["text"].to_pylist())
            if "document" in columns:
                owners = zip(batch["document"].to_pylist(), batch["id"].to_pylist(), strict=True)
                prints["document"] = [digest(str(i if name is None else name).encode()) for name, i in owners]
            stream.write(prints.tobytes())
            bar.advance(len(batch))
    return mapped(path, PRINT)


def _printed(texts: list[str]) -> Array:
    found = np.zeros(len(texts), PRINT)
    grams = [ngrams(words(text), N) for text in texts]
    found["length"] = [len(text) for text in texts]
    found["words"] = [digest(g.tobytes() or t.encode()) for g, t in zip(grams, texts, strict=True)]
    ends = np.cumsum([0, *map(len, grams)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(grams), ends, PERMUTATIONS, 1)
    rows = np.array(matrix.to_rows(), np.uint32).view(np.uint64).reshape(len(texts), BANDS, -1)
    for column in range(rows.shape[2]):
        found["bands"] = found["bands"] * BASE + rows[:, :, column]
    wordless = ends[1:] == ends[:-1]
    found["bands"][wordless] = found["words"][wordless, None]  # else they would all look alike
    return found


def _order(data: Records, prints: Array) -> Array:
    """The rows from the longest document to the shortest, then by id."""
    weight = prints["length"]
    if "document" in data.columns:
        _, owner = np.unique(prints["document"], return_inverse=True)
        weight = np.bincount(owner, weight)[owner]
        del owner
    rows = pa.table({"weight": weight, "id": data.array("id")})
    order = pc.sort_indices(rows, [("weight", "descending"), ("id", "ascending")]).to_numpy().astype(np.int32)
    pa.default_memory_pool().release_unused()  # or it keeps twenty bytes a record for itself
    return order


def _first(digests: Array) -> Array:
    """Of every place, the first one with the same words."""
    first = np.arange(len(digests), dtype=np.int32)
    group, _ = alike(digests)
    several = np.flatnonzero(group >= 0)
    _, at = np.unique(group[several], return_index=True)
    first[several] = several[at][group[several]]
    return first
