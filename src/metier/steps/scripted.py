"""A writer that knows the country of `data.ingest.invented` and errs at a known rate.

For trying, with exact numbers and without a large model, whatever writes, answers, filters or judges data.

Options:
    errors: share of wrong answers, and of questions that miss their passage.
    broken: share of replies that hold nothing of what was asked for.
    entities: size of the country, as in `data.ingest.invented`.
    test: share of it that is held out, as there; the writer knows all of it.
    seed: the country, as there.
    number: another number is another writer, which errs elsewhere.
"""

from __future__ import annotations

from metier.lm.chat import Access, Chat
from metier.options import Count, Natural, Seed, Share
from metier.worlds import facts
from metier.worlds.writer import Scripted

GIVES: Access = "text"


def run(
    *,
    errors: Share = 0.15,
    broken: Share = 0.0,
    entities: Count = 40,
    test: Share = 0.25,
    seed: Seed = 0,
    number: Natural = 0,
) -> Chat:
    return Scripted(facts.make(entities, test, seed), errors, broken, number)
