"""Sums of random numbers, worked out digit by digit: a task whose answers a rule can check.

For self-training, rewards and pass@k, where a model made on the spot should be right some of the time. The prompt is
`57+68=`; a solution adds from the right, carries, and ends in the sum: `7+8=15 5+6+1=12 #125`. A reply is right when
its last number is the sum, whatever stands before. Not a measure of a model's skill with numbers: `tasks.general` asks
sums as everybody writes them.

All sums differ. *shown* holds solutions to learn the form from, of which a share is wrong (a carry is forgotten, or one
is added that is not there); *train* holds sums with right solutions, to sample from or to learn from; *dev* and *test*
hold sums alone. The rows of *test* are asked, and `$sums.shown`, `$sums.train`, `$sums.dev` are records.

Options:
    digits: how many the numbers have, both the same; as many sums of each.
    shown: solutions, some of them wrong.
    noise: share of *shown* whose solution is wrong.
    train: sums with a right solution.
    dev: sums to watch.
    test: sums that are asked.
    seed: decides the numbers and which solutions are wrong.
Raises: MetierError when there are not that many different sums.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from metier.artefacts import Measure, Records, Row, Task
from metier.options import Count, MetierError, Natural, Seed, Share

NAME = "tasks.arithmetic"
NEEDS = {"chats": "text"}
EXAMPLE = {"shown": 8, "train": 8, "dev": 4, "test": 6}
Digits = Annotated[list[Annotated[int, Field(ge=1, le=9)]], Field(min_length=1)]
NUMBER = re.compile(r"\d+")
RIGHT = Measure("write", "domain", "share", "higher", "right sums", "Replies whose last number is the sum.")


def make(
    *, digits: Digits = [2, 3], shown: Natural = 2000, noise: Share = 0.3, train: Count = 500,  # noqa: B006
    dev: Natural = 100, test: Count = 300, seed: Seed = 0,
) -> Task:  # fmt: skip
    rng, sizes = random.Random(seed), {"shown": shown, "train": train, "dev": dev, "test": test}
    sums = _sums(digits, sum(sizes.values()), rng)
    rows = []
    for split, size in sizes.items():
        wrong = set(rng.sample(range(size), round(size * noise))) if split == "shown" else set[int]()
        rows += [_row(split, *next(sums), wrong=number in wrong, rng=rng) for number in range(size)]
    return Task("arithmetic", NAME, Records.from_rows(rows), {"right": RIGHT}, {"digits": digits, "noise": noise})


def grade(records: list[Row], replies: list[Any]) -> list[dict[str, float]]:
    """1 when the last number of the reply is the sum."""
    return [
        {"right": float((NUMBER.findall(reply.text) or [""])[-1] == row["reference"])}
        for row, reply in zip(records, replies, strict=True)
    ]


def solution(a: int, b: int, slip: int | None = None) -> str:
    """The sum digit by digit, from the right; at place ``slip`` the carry is the other one, so that it is wrong.

    A carry comes into places 1, 2, … up to the one behind the last digit.
    """
    carry, steps, places = 0, [], []
    for place in range(max(len(str(a)), len(str(b)))):
        carry = 1 - carry if place == slip else carry
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        places.append(total % 10)
        carry = total // 10
    carry = 1 - carry if slip == len(places) else carry
    digits = "".join(map(str, reversed([*places, carry] if carry else places)))
    return f"{' '.join(steps)} #{int(digits)}"


def _sums(digits: list[int], count: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """``count`` different ones, the lengths in turn."""
    lengths = [digits[number % len(digits)] for number in range(count)]
    for length, wanted in Counter(lengths).items():
        if wanted > (there := (9 * 10 ** (length - 1)) ** 2):
            raise MetierError(f"{NAME}: there are {there} sums of two numbers with {length} digits, asked for {wanted}")
    known: set[tuple[int, int]] = set()
    for length in lengths:
        low, high = 10 ** (length - 1), 10**length - 1
        while (pair := (rng.randint(low, high), rng.randint(low, high))) in known:
            pass
        known.add(pair)
        yield pair


def _row(split: str, a: int, b: int, *, wrong: bool, rng: random.Random) -> Row:
    prompt = f"{a}+{b}="
    slip = rng.randint(1, len(str(a))) if wrong else None
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": solution(a, b, slip)}]
    return {
        "id": f"sum/{a}+{b}", "split": split, "measure": "right" if split == "test" else None, "cluster": f"{a}+{b}",
        "prompt": prompt, "reference": str(a + b), "digits": len(str(a)),
        "messages": turns if split in ("shown", "train") else None,
    }  # fmt: skip
