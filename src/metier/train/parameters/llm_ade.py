"""Only the blocks that do most for these data learn, in place or in a copy.

For continued training of a small model on data of a field, with less forgetting than training everything: a block that
hardly turns the hidden states of these data is left alone. The angle says what a block does, not what it knows; where
general text is at hand `adept` asks that directly. Take away what is there twice first (`data.select.distinct`): the
more often a text is seen, the more is forgotten for it.

    d(l, n) = ∠(x_l, x_(l+n)) / π at the end of a sequence, mean over sequences; x_l enters block l

A block's score is the mean d of the runs of n blocks it is in. Of the highest scores the first `expand` are copied and
frozen, their silent copies learn; the others up to `top` learn in place. Embeddings, norm and head are frozen.

Paper: 45
Options:
    top: share of the blocks that learn, copies included.
    expand: share of the blocks that learn in a copy behind them.
    span: length of the runs whose angle is taken.
    pool: at the last token of a sequence, or the mean over its tokens.
    protect: so many blocks at either end neither learn nor are copied; their angles are large whatever the data.
    plan: the blocks to *train* and to *expand*, counted from 0, instead of what the scores say.
    max_tokens: tokens of the data that are looked at, about: rows evenly spread.
Raises: MetierError when no block is left to learn, the plan names one that is not there or names it twice, or the
    architecture is not known.
Differs: the paper's thresholds and counts are not published; these are shares. The angle is 2·atan2(|u − v|, |u + v|)
    of the unit vectors, exact near 0 where arccos is not, and is taken before the final norm. Scores are taken once:
    training in several goes with new scores each time is `train.rounds.stages`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from metier.artefacts import Records
from metier.lm.expand import blocks, check, insert
from metier.options import Count, MetierError, Natural, Share
from metier.train.parameters import _importance, block_expansion, freeze
from metier.train.setup import Network, Trainable

NAME = "train.parameters.llm_ade"
EXAMPLE = {"top": 1.0, "expand": 0.5, "protect": 0}
Plan = dict[Literal["train", "expand"], list[Natural]]


def prepare(
    network: Network, data: Records, *, top: Share = 0.25, expand: Share = 0.0, span: Count = 1,
    pool: _importance.Pool = "last", protect: Natural = 1, plan: Plan | None = None, max_tokens: Count = 200_000,
) -> Trainable:  # fmt: skip
    """Adapters are folded in first. The plan and the profile d are noted in the result."""
    network = freeze.dense(network)
    count = len(blocks(network.module, NAME))
    notes: dict[str, object] = {}
    if plan is None:
        if span > count:
            raise MetierError(f"{NAME}: 'span' must be at most {count}, the number of blocks, got {span}")
        probes = _importance.probes(NAME, network, data, max_tokens)
        profile = _importance.profile(network.module, probes, span, pool, NAME)
        notes["profile"] = [round(d, 6) for d in profile.tolist()]
        plan = planned(of_blocks(profile, span), top, expand, protect)
    train, copied = sorted(plan.get("train", [])), sorted(plan.get("expand", []))
    check([*train, *copied], count, NAME)
    if not train and not copied:
        raise MetierError(f"{NAME}: no block is left to learn; raise 'top' or lower 'protect', or name some in 'plan'")
    notes["plan"] = {"train": train, "expand": copied}
    copies = insert(network.module, copied, NAME) if copied else []
    moved = [number + sum(c < number for c in copied) for number in train]  # copies below push them up
    return block_expansion.moving(network, [*moved, *copies], notes, NAME)


def of_blocks(profile: Tensor, span: int) -> Tensor:
    """The mean over the runs a block is in, of the profile [blocks − span + 1]: [blocks]."""
    runs = len(profile)
    return profile.new_tensor([
        float(profile[max(0, n - span + 1) : min(n, runs - 1) + 1].mean()) for n in range(runs + span - 1)
    ])  # fmt: skip


def planned(scores: Tensor, top: float, expand: float, protect: int) -> Plan:
    """Which of the blocks learn in place and which in a copy; the highest scores first, ties by number."""
    count = len(scores)
    order = [n for n in scores.argsort(descending=True, stable=True).tolist() if protect <= n < count - protect]
    copied = round(expand * count)
    return {"train": order[copied : max(copied, round(top * count))], "expand": order[:copied]}
