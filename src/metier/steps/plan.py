"""Tries learning rates for a minute, measures the pace, writes down rate and steps once.

Everything the clock decides is decided here; training depends on the plan alone. Each rate runs a few real
steps from the same start; the one with the lowest dev loss is taken (dev, never test).

    steps = (budget - elapsed - sum of repeats * seconds of a report - looks at dev - reserve)
            / trainings * tokens a second / step_tokens

Tokens a second and the time of a look are those of the trials, the seconds of a report its own. A measure that is taken
again is thought to last as long again: true of a model of the same size, not of longer prompts (measure those first).

Options:
    budget: seconds for the whole run, such as 600 or 10m.
    rates: learning rates to try.
    trial: steps a rate is tried for.
    repeats: how often each measured report will be measured again; once when not given.
    trainings: how many trainings of this length follow (specialist and control).
    passes: at most this many passes over the data.
    reserve: seconds kept for what is not measured, loading and writing; a guess.
    least: never fewer steps than this, even beyond the budget (a note says so).
Raises: MetierError when there is no `dev`, `step_tokens` is not given, or `repeats` are not one for each report.
"""

from __future__ import annotations

import math

from metier.artefacts import Model, Records, Report
from metier.options import Count, Duration, MetierError, Natural, NonNegative, Positive
from metier.store import Work
from metier.train import probe
from metier.train.setup import Setup

EXAMPLE = {"step_tokens": 64, "dev": "$records.dev", "rates": [1e-3], "trial": 1}
EXEMPT = {"the_same_again_gives_the_same": "it measures the clock; what it finds is written down once"}
LOOKS = 3  # at dev, while training


def run(
    model: Model,
    data: Records,
    measured: list[Report],
    setup: Setup,
    *,
    budget: Duration = 600.0,
    rates: list[Positive] = [5e-4, 1e-3],  # noqa: B006 - read off the signature, never changed
    trial: Count = 3,
    repeats: list[NonNegative] | None = None,
    trainings: Count = 2,
    passes: Positive = 4.0,
    reserve: NonNegative = 20.0,
    least: Natural = 8,
    work: Work,
) -> Report:
    if setup.step_tokens is None:
        raise MetierError("plan: needs 'step_tokens', so that time can be counted in steps")
    if repeats is None:
        repeats = [1.0] * len(measured)
    if len(repeats) != len(measured):
        raise MetierError(f"plan: 'repeats' must be {len(measured)} numbers, one for each of 'measured', got {repeats}")
    trials = probe.rates(model, data, setup, rates=rates, steps=trial, work=work)
    best = min(trials, key=lambda t: (t["dev_loss_after"], t["lr"]))
    if not math.isfinite(best["dev_loss_after"]):
        raise MetierError(f"plan: training diverged at every rate of {rates}; give smaller 'rates'")
    pace = sum(t["tokens"] for t in trials) / sum(t["seconds"] for t in trials)
    later = sum(r.part("cost")["seconds"] * times for r, times in zip(measured, repeats, strict=True))
    looks = (LOOKS + 1) * best["dev_seconds"]
    left = budget - work.elapsed - later - looks - reserve
    available = probe.tokens(model, data, setup)
    affordable = int(left / trainings * pace / setup.step_tokens)
    enough = int(passes * available / setup.step_tokens)
    steps = max(min(affordable, enough), least)
    notes = []
    if steps > affordable:
        notes.append(f"the budget allows {max(affordable, 0)} steps; {steps} are run, so it will take longer")
    work.log(event="plan", trials=trials, tokens_a_second=pace, seconds_for_evaluation=later, affordable=affordable,
             enough=enough, notes=notes)  # fmt: skip
    tokens = steps * setup.step_tokens
    return Report({"lr": best["lr"], "steps": steps, "look": math.ceil(steps / LOOKS), "tokens": tokens,
                   "passes": tokens / available, "notes": notes})  # fmt: skip
