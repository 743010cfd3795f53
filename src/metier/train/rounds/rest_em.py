"""ReST-EM: a model samples solutions, learns those that are right, and samples again.

For problems whose answers can be checked, when a model is right some of the time and people's solutions are few. Every
round samples with the model of the round before and trains the first model again on what was right, so nothing drifts.
Not where the model is never right (nothing is learnt, and it says so), nor where a wrong way may give the right answer
by chance: the check sees the answer only. Later rounds gain little and may lose; give `watch`.

    E: y ~ p_θ(y|x), kept with weight r(x, y), the first grade of the task
    M: θ ← argmax Σ r(x, y) · log p_θ(y|x)                from the first model (or the one before)

The problems are the rows of the split *train* of the task, which grades them; their `prompt` is what is asked. Of each,
`per_problem` different solutions are kept at most, drawn at random, so that easy problems do not rule. With `watch`
(the name of another split, such as *dev*) the model whose greedy replies get the highest mean grade there is returned,
the first one included; without, that of the last round. Killed in a round, the same call goes on in it: what was
sampled and trained before is kept.

Paper: 48
Options:
    inner: the loop of each round; the options of every training step apply to it.
    rounds: of sampling and training, at most.
    samples: replies drawn for each problem in a round.
    per_problem: solutions kept of a problem in a round, at most.
    start: what a round trains: *base*, the first model, or *previous*, the one that sampled.
    temperature: of the samples.
    top_p: share of the probability that samples are drawn from.
    max_tokens: length of a reply, at most; one that is cut off is graded like any other.
    watch: the split whose replies decide which round is best and when to stop.
    stale: rounds without a better mean grade there before it stops.
Raises: MetierError when a split is not there, a problem has no prompt, the task grades nothing, or a grade is no number
    of at least 0; or from the inner loop.
Differs: samples are cut at `top_p`, not at the 40 likeliest words; equal solutions of a problem count once; there is no
    prompt with examples in the first round.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import shutil
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from metier.artefacts import Model, Records, Row, Task
from metier.lm import ask, load
from metier.lm.chat import Sampling
from metier.options import Count, Positive, Train
from metier.train.graded import problems, rewards
from metier.train.rounds import _logs
from metier.train.setup import Setup, derive, method
from metier.train.state import accelerator

NAME = "train.rounds.rest_em"
EXAMPLE = {"data": "$problems", "rounds": 2, "samples": 8, "max_tokens": 24, "temperature": 1.0}
TopP = Annotated[float, Field(gt=0, le=1)]


def train(
    model: Model, data: Task, setup: Setup, *, inner: Train = "sft", rounds: Count = 3, samples: Count = 32,  # type: ignore[assignment]
    per_problem: Count = 10, start: Literal["base", "previous"] = "base", temperature: Positive = 0.7,
    top_p: TopP = 1.0, max_tokens: Count = 256, watch: str | None = None, stale: Count = 1,
) -> Model:  # fmt: skip
    """The best model; its notes tell of every round. When no sample is right, the model as it came."""
    loop = method("train.loop", "train", inner) if isinstance(inner, str) else inner
    asked = problems(NAME, data, "train")
    looked = None if watch is None else functools.partial(_mean_grade, data, problems(NAME, data, watch), max_tokens)
    sampling = Sampling(max_tokens, temperature, top_p, samples)
    sampler, history = model, list[dict[str, Any]]()
    made = [(model, looked(model, setup) if looked else -math.inf)]
    for number in range(1, rounds + 1):
        drawn = dataclasses.replace(sampling, seed=derive(setup.seed, "round", number))
        sampled: Records = setup.once(f"sampled-{number}", functools.partial(_sampled, sampler, asked, data, drawn))
        kept = chosen(sampled, per_problem, derive(setup.seed, "kept", number))
        facts = {"round": number, **_told(sampled, asked, samples), "kept": len(kept)}
        if not len(kept):
            history.append(facts)
            if accelerator().is_main_process:
                setup.work.note(f"round {number}: none of {len(sampled)} samples is right, so nothing can be learnt")
            break
        below = model if start == "base" else sampler
        sampler = setup.once(f"round-{number}", functools.partial(_trained, loop, below, kept, number))
        grade = looked(sampler, setup) if looked else float(number)
        history.append(facts | {"steps": sampler.notes["steps"]} | ({"grade": grade} if looked else {}))
        made.append((sampler, grade))
        best = max(range(len(made)), key=lambda i: made[i][1])
        if len(made) - 1 - best >= stale:
            break
    own = _logs.inner(setup.work, [f"round-{n}" for n in range(1, len(made))])
    _logs.put_first(setup.work, [*own, *({"event": "round", "stage": facts["round"], **facts} for facts in history)])
    best = max(range(len(made)), key=lambda i: made[i][1])
    facts = {"rounds": history, "best_round": best} | ({"grade_before": made[0][1]} if looked else {})
    return _result(made[best][0], best, [m for m, _ in made[1:]], facts, setup)


def chosen(sampled: Records, most: int, seed: int) -> Records:
    """At most so many different right solutions of each problem, drawn at random, as conversations with a `weight`."""
    of: dict[str, dict[str, Row]] = {}
    for row in sampled:
        if row["weight"] > 0:
            of.setdefault(row["problem"], {}).setdefault(row["messages"][-1]["content"], row)
    rows: list[Row] = []
    for problem, solutions in of.items():
        held = list(solutions.values())
        picked = random.Random(f"{seed} {problem}").sample(range(len(held)), min(most, len(held)))
        rows += [held[i] for i in sorted(picked)]
    return Records.from_rows(rows)


def _sampled(model: Model, asked: list[Row], task: Task, sampling: Sampling, setup: Setup) -> Records:
    """Every sample as a conversation: id, problem, messages, weight (its grade)."""
    chat = load.open(model)
    turns = [[{"role": "user", "content": row["prompt"]}] for row in asked]
    replies = ask.ask(chat, turns, sampling, work=setup.work, label="sampling")
    chat.close()
    each = [(row, k) for row in asked for k in range(sampling.n)]
    grades = rewards(NAME, task, [row for row, _ in each], replies, least=0.0)
    return Records.from_rows(
        {"id": f"{row['id']}#{k + 1}", "problem": row["id"], "weight": grade,
         "messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": reply.text}]}
        for (row, k), reply, grade in zip(each, replies, grades, strict=True)
    )  # fmt: skip


def _trained(loop: Callable[..., Any], below: Model, kept: Records, number: int, setup: Setup) -> Model:
    trained: Model = loop(below, kept, dataclasses.replace(setup, seed=derive(setup.seed, "training", number)))
    return trained


def _mean_grade(task: Task, rows: list[Row], max_tokens: int, model: Model, setup: Setup) -> float:
    """Of greedy replies."""
    chat = load.open(model)
    turns = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    replies = ask.ask(chat, turns, Sampling(max_tokens), work=setup.work, label="watching")
    chat.close()
    return sum(rewards(NAME, task, rows, replies, least=0.0)) / len(rows)


def _told(sampled: Records, asked: list[Row], samples: int) -> dict[str, Any]:
    """What a round's samples were like."""
    right = [row for row in sampled if row["weight"] > 0]
    solved = {row["problem"] for row in right}
    different = {(row["problem"], row["messages"][-1]["content"]) for row in right}
    return {"right": len(right) / (len(asked) * samples), "solved": len(solved) / len(asked),
            "different": len(different) / max(1, len(right))}  # fmt: skip


def _result(best: Model, number: int, trained: list[Model], facts: dict[str, Any], setup: Setup) -> Model:
    """The best round's folder in this step's own place, since what `once` keeps goes when the step is finished."""
    names = ("steps", "tokens_trained", "seconds") if trained else ()
    totals = {name: sum(m.notes[name] for m in trained) for name in names}
    best = dataclasses.replace(best, notes=best.notes | totals | {"method": NAME} | facts)
    if number == 0:
        return best
    place, processes = setup.work.folder / "model", accelerator()
    if processes.is_main_process:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(best.path, place)
    processes.wait_for_everyone()
    return dataclasses.replace(best, path=place)
