"""Several schedules one after another, each in a stretch of the training of its own.

For what no single one does: a warm-up before a cycle, a constant rate before a fall. Each part sees its stretch as a
whole training, so it begins and ends as it would alone.

    rate(x) = partⱼ( (x − bⱼ) / (bⱼ₊₁ − bⱼ) )   for bⱼ ≤ x < bⱼ₊₁,   b = 0, at…, 1

Paper: 112 (its composite policies)
Options:
    parts: the schedules, in order; `{use: linear, warmup: 1}` is a rise.
    at: where the second part begins, the third …, as shares of the training: one less than there are parts.
Raises: MetierError when there are not as many places as parts but one, or they do not rise.
Differs: the paper's parts go on counting steps from their boundary; here each part is stretched to its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from metier.options import MetierError, Schedule
from metier.train.slots import needs_of, takes

NAME = "train.schedule.piecewise"
EXAMPLE = {"parts": ["linear", "constant"], "at": [0.5]}
Inside = Annotated[float, Field(gt=0, lt=1)]


def refuse(parts: Sequence[Any], at: Sequence[float]) -> None:
    if len(parts) != len(at) + 1:
        raise MetierError(
            f"{NAME}: {len(at)} places 'at' cut the training into {len(at) + 1}, got {len(parts)} 'parts'"
        )
    if any(b <= a for a, b in pairwise(at)):
        raise MetierError(f"{NAME}: the places 'at' must rise, got {', '.join(f'{place:g}' for place in at)}")


def rate(done: float, looks: Sequence[Sequence[float]] = (), *, parts: list[Schedule], at: list[Inside]) -> float:
    """Factor on the learning rate when the share ``done`` of the training lies behind; ``looks`` as in `plateau`."""
    refuse(parts, at)
    bounds = [0.0, *at, 1.0]
    j = min(bisect.bisect_right(bounds, done) - 1, len(parts) - 1)
    inside = (done - bounds[j]) / (bounds[j + 1] - bounds[j])
    seen = (looks,) if takes(parts[j], "looks") else ()
    factor: float = parts[j](inside, *seen)
    return factor


def needs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of its parts."""
    return {word: wanted for part in options.get("parts", ()) for word, wanted in needs_of(part).items()}


checks = {"rate": refuse}
