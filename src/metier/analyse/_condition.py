"""What a claim says of a number, such as "< 0": read without running anything, judged by an interval."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from metier.options import Words
from metier.stats import Change

FORM = re.compile(r"\s*(<=|>=|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
Judged = Literal["holds", "does not hold", "not testable"]


@dataclasses.dataclass(frozen=True)
class Condition:
    sign: str
    bound: float

    def is_true_of(self, value: float) -> bool:
        return {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }[self.sign]

    def judge(self, change: Change, p: float, alpha: float) -> Judged:
        """*holds* by its p-value, adjusted for all that were asked; *does not hold* by its plain interval.

        A contradiction is not adjusted: a warning should not fade because more was asked.
        """
        if p <= alpha:
            return "holds"
        whole = not self.is_true_of(change.low if self.sign[0] == "<" else change.high)
        return "does not hold" if whole and math.isfinite(change.error) else "not testable"

    def p(self, change: Change) -> float:
        """One-sided p-value of "it is not so"."""
        if change.error == 0:  # nothing varies: the bound itself is inside "<=" and ">=", outside "<" and ">"
            return 0.0 if self.is_true_of(change.centre) else 1.0
        above = change.p_above(self.bound)
        return above if self.sign[0] == ">" else 1 - above


def parse(text: str) -> Condition:
    """Raises ValueError when the text is no comparison with a number."""
    found = FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"no comparison: {text!r}")
    return Condition(found[1], float(found[2]))


def _comparison(text: str) -> str:
    parse(text)
    return text


Comparison = Annotated[str, AfterValidator(_comparison), Words('a comparison such as "< 0" or ">= -0.03"')]
