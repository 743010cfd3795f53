"""An invented country whose every fact is known, as documents or as questions with answers.

For tests and studies: nothing of it can be in a model's pre-training, so what a model knows of it afterwards it has
learnt. Facts are split by entity: `$country.train` tells nothing of the facts of `$country.test`. Its writer, with a
known error rate, is the step `scripted`. Not for judging how well a model reads real prose: the sentences are plain.

Options:
    kind: *documents* (texts about each entity) or *questions* (prompt, completion, choices, gold).
    entities: towns, people, works and engines, a quarter each (rounded up).
    versions: documents about each entity, in other sentences each; 1 to 3.
    phrasing: questions in the phrasings for training, in the one kept for testing, or in all.
    test: share of the entities that is held out.
    seed: decides names, facts and split.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metier.artefacts import Records
from metier.options import Count, Seed, Share
from metier.store import Work
from metier.worlds import facts

Versions = Annotated[int, Field(ge=1, le=facts.PHRASINGS)]


def read(
    *,
    kind: Literal["documents", "questions"] = "documents",
    entities: Count = 40,
    versions: Versions = 2,
    phrasing: Literal["train", "test", "all"] = "all",
    test: Share = 0.25,
    seed: Seed = 0,
    work: Work,
) -> Records:
    """Documents have the columns of `data.ingest.documents` with split and group.

    Questions: id, prompt (messages), completion, choices, gold (an index), fact, subject, relation, phrasing, split,
    group, origin.
    """
    world = facts.make(entities, test, seed)
    if kind == "documents":
        rows = world.documents(versions)
    else:
        rows = [row for row in world.questions() if phrasing in ("all", row["phrasing"])]
    work.log(event="invented", kind=kind, records=len(rows), facts=len(world.facts))
    return Records.from_rows(rows)
