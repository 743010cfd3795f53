"""Plumbing steps: what a recipe needs between methods."""

from __future__ import annotations

import random
from collections import Counter
from typing import Annotated

from metier import publish
from metier.artefacts import Model, Records, Report, Scores
from metier.lm import load
from metier.options import Count, Duration, MetierError, Natural, NonNegative, Outside, Positive, Real, Seed, Share, Target
from metier.store import Work
from metier.text import leakfree
from metier.train import probe
from metier.train.setup import Setup

Where = Annotated[str, Outside()]


def model(*, path: Where = "smollm2", work: Work) -> Model:
    """The model to start from: `smollm2` (embedded), a hub name, a transformers or peft folder.

    Options:
        path: what to load; the embedded model is converted once and kept.
    Raises: MetierError when there is no such model, no tokenizer, pickle weights only, or no network.
    """
    return load.resolve(path, work)


fingerprints = {"model": load.fingerprint}


def keep(
    data: Records, scores: Scores, *, share: Share = 1.0, above: Real | None = None, work: Work
) -> Records:  # fmt: skip
    """The records that scored best, in their own order; those with a reason instead of a score are dropped.

    Options:
        share: of the scored records, how many stay; ties are broken by id.
        above: only records whose score is greater.
    Raises: MetierError when a record has no row in the scores, or nothing is left.
    """
    by_id = {row["id"]: row for row in scores}
    missing = [i for i in data.column("id") if i not in by_id]
    if missing:
        raise MetierError(f"keep: record {missing[0]!r} has no row in the scores ({len(missing)} have none)")
    rows = [by_id[i] for i in data.column("id")]
    reasons = {row["id"]: row["reason"] for row in rows if row["reason"]}
    scored = sorted((r for r in rows if not r["reason"]), key=lambda r: (-r["score"], r["id"]))
    if above is not None:
        reasons |= {r["id"]: f"score not above {above}" for r in scored if r["score"] <= above}
        scored = [r for r in scored if r["score"] > above]
    cut = scored[round(len(scored) * share) :]
    reasons |= {r["id"]: f"not among the best {share:.0%}" for r in cut}
    return _without(data, reasons, work, "keep")


def where(data: Records, *, column: str, equals: str) -> Records:
    """The records whose column has this value.

    Options:
        column: name of the column.
        equals: its value, as text.
    Raises: MetierError when there is no such column or no such record.
    """
    kept = data.where([str(v) == equals for v in data.column(column)])
    if not len(kept):
        raise MetierError(f"where: no record has {column} = {equals!r}")
    return kept


def split(data: Records, *, dev: Share = 0.1, test: Share = 0.2, seed: Seed = 0, work: Work) -> Records:
    """Train, dev and test without leak: documents that share text form a group, groups are split, never documents.

    One document or under five groups: contiguous sections with a gap. Adds the columns `split` and `group`.
    Test chunks that still overlap with train are dropped with a reason; the residual is logged.

    Options:
        dev: share of the text held out for early stopping.
        test: share of the text held out for the report.
        seed: decides which groups go where.
    Raises: MetierError when a split would be empty.
    """
    rows = list(data)
    assigned = leakfree.assign(rows, dev=dev, test=test, seed=seed)
    dropped = {i: r for i, r in assigned.dropped.items()}
    ids = data.column("id")
    marked = data.with_column("split", [assigned.split.get(i) for i in ids])
    marked = marked.with_column("group", [assigned.group.get(i) for i in ids])
    kept = _without(marked, dropped, work, "split")
    sizes: Counter[str] = Counter()
    for row in kept:
        sizes[row["split"]] += len(row["text"].encode())
    for name in ("train", "dev", "test"):
        if not sizes[name]:
            raise MetierError(f"split: no text is left for {name}; there are {sum(sizes.values())} bytes in all")
    work.log(event="split", how=assigned.how, residual=assigned.residual, notes=assigned.notes, bytes=dict(sizes),
             groups=len(set(assigned.group.values())),
             documents=len(set(data.column("document"))))  # fmt: skip
    return kept


def blend(sources: dict[str, Records], *, shares: dict[str, Positive], seed: Seed = 0, work: Work) -> Records:
    """Sources mixed so that each has its share of the text; the column `source` says where a record came from.

    The source that would run out first is used whole, the others are sampled down to keep the shares.

    Options:
        shares: source → share of the bytes; they are normalised to 1.
        seed: decides which records are sampled.
    Raises: MetierError for a share without a source, or an empty source.
    """
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
        order = sorted(rows[name], key=lambda r: r["id"])
        random.Random(f"{seed}:{name}").shuffle(order)
        budget, taken = scale * shares[name] / total, 0
        for row in order:
            if taken >= budget:
                break
            taken += len(row["text"].encode())
            mixed.append(row | {"id": f"{name}:{row['id']}", "source": name})
        work.log(event="blend", source=name, read=sizes[name], kept=taken)
    return Records.from_rows(mixed)


def plan(
    model: Model,
    data: Records,
    dev: Records,
    measured: list[Report],
    setup: Setup,
    *,
    budget: Duration = 600.0,
    rates: list[Positive] = [3e-4, 1e-3, 3e-3],  # noqa: B006 - read off the signature, never changed
    trial: Count = 4,
    repeats: list[NonNegative] = [3.5, 1.0],  # noqa: B006
    trainings: Count = 2,
    passes: Positive = 4.0,
    reserve: NonNegative = 25.0,
    least: Natural = 8,
    work: Work,
) -> Report:
    """Tries learning rates for a minute, measures the pace, and writes down rate and number of steps once.

    Everything the clock decides is decided here; training depends on the plan alone. Each rate runs a few real
    steps from the same start; the one with the lowest dev loss is taken (dev, never test).

    Options:
        budget: seconds for the whole run, such as 600 or 10m.
        rates: learning rates to try.
        trial: steps a rate is tried for.
        repeats: how often each measured report's work is still to be done.
        trainings: how many trainings of this length follow (specialist and control).
        passes: at most this many passes over the data.
        reserve: seconds kept for loading and writing.
        least: never fewer steps than this, even beyond the budget (a note says so).
    """
    trials = probe.rates(model, data, dev, setup, rates=rates, steps=trial, work=work)
    best = min(trials, key=lambda t: (t["dev_loss_after"], t["lr"]))
    pace = sum(t["tokens"] for t in trials) / sum(t["seconds"] for t in trials)
    later = sum(r.part("cost")["seconds"] * times for r, times in zip(measured, repeats, strict=True))
    left = budget - work.elapsed - later - reserve
    available = probe.tokens(model, data, setup)
    affordable = int(left / trainings * pace / setup.step_tokens)
    enough = int(passes * available / setup.step_tokens)
    steps = max(min(affordable, enough), least)
    notes = []
    if steps > affordable:
        notes.append(f"the budget allows {max(affordable, 0)} steps; {steps} are run, so it will take longer")
    work.log(event="plan", trials=trials, tokens_a_second=pace, seconds_for_evaluation=later, affordable=affordable,
             enough=enough, notes=notes)  # fmt: skip
    return Report({"lr": best["lr"], "steps": steps, "tokens": steps * setup.step_tokens,
                   "passes": steps * setup.step_tokens / available, "notes": notes})  # fmt: skip


def export(
    model: Model, verdict: Report, *, to: Target, merge: bool = False, gguf: bool = False, work: Work
) -> Report:  # fmt: skip
    """Writes the specialist's folder: weights that load without metier, report.html, report.json, model card.

    Options:
        to: the folder; it is replaced as a whole once everything is written.
        merge: fold the adapter into the weights (checked against the unmerged model).
        gguf: also write a GGUF file for llama.cpp and Ollama.
    Raises: MetierError when the folder holds something that metier did not write.
    """
    return publish.write(model, verdict, to, merge=merge, gguf=gguf, work=work)


def _without(data: Records, reasons: dict[str, str], work: Work, owner: str) -> Records:
    counts = Counter(reason.split(" of ")[0] for reason in reasons.values())
    work.log(event="kept", read=len(data), kept=len(data) - len(reasons), dropped=dict(counts))
    for i, reason in reasons.items():
        work.log(event="dropped", id=i, reason=reason)
    if len(reasons) == len(data):
        raise MetierError(f"{owner}: nothing is left of {len(data)} records: {dict(counts)}")
    gone = set(reasons)
    return data.where([i not in gone for i in data.column("id")])
