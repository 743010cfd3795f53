"""Log-probabilities of continuations, fast on a CPU: stems are shared, the head is applied where it counts.

Continuations of one prompt are computed as a tree: the stem once, then every branch behind it with positions that
go on from the stem and a mask that hides the other branches. Whether an architecture honours such a mask is tried,
not assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from metier.lm import loss, tokens
from metier.options import MetierError

BUDGET = 2048  # tokens of a batch, padding counted
WORTH = 8  # tokens of a stem below which sharing it saves nothing
LARGEST = 4096  # tokens of a tree; its mask is square
TOLERANCE = 1e-3  # nats a token: rounding in float32 stays far below, a mask that is not honoured far above


@dataclasses.dataclass(frozen=True)
class LogProb:
    """Sum of the log-probabilities of a continuation's tokens, in nats, and how many they are."""

    sum: float
    tokens: int


@dataclasses.dataclass
class _Row:
    """A sequence to run: ``scored`` lists (index of the predicting position, token, continuation)."""

    ids: list[int]  # without the last token of a text, which predicts nothing: a choice of one token costs none
    scored: list[tuple[int, int, int]]
    branches: list[tuple[int, int]]  # (start, end) of each branch behind the stem; empty for a plain row
    stem: int = 0


def log_probabilities(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str], *,
    window: int | None = None, stride: int | None = None, advance: Callable[[float], None] | None = None,
) -> list[LogProb]:  # fmt: skip
    """Of every continuation given its prompt, whatever the order and the batches.

    A token that straddles the border counts to the continuation. Text that does not begin with a special token is put
    behind the mark that separates documents, so its first token is scored too. Longer than ``window`` (the model's own
    when None), a text is read in windows that overlap by ``window − stride`` tokens; every token counts exactly once.
    ``advance`` hears of tokens scored. Raises MetierError for a window in which nothing can be predicted.
    """
    return _sums(lambda rows: _run(network, rows), tokenizer, prompts, continuations, window or window_of(network),
                 stride, lambda: _honours_trees(network), advance)  # fmt: skip


def joint(
    networks: Sequence[nn.Module], combine: Callable[[list[Tensor]], Tensor], tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None, stride: int | None = None,
    advance: Callable[[float], None] | None = None,
) -> list[LogProb]:  # fmt: skip
    """The same of several networks that speak with one voice: ``combine`` makes one table of logits of theirs.

    Each is [n, vocab] in float32. The networks have one vocabulary and read the same tokens.
    """
    return _sums(lambda rows: _run_joint(networks, combine, rows), tokenizer, prompts, continuations,
                 window or min(map(window_of, networks)), stride, lambda: all(map(_honours_trees, networks)),
                 advance)  # fmt: skip


def _sums(
    run: Callable[[list[_Row]], list[float]], tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str],
    continuations: Sequence[str], limit: int, stride: int | None, tree: Callable[[], bool],
    advance: Callable[[float], None] | None,
) -> list[LogProb]:  # fmt: skip
    """``run`` gives the log-probability of everything its rows score, in order."""
    if limit < 2:
        raise MetierError(f"log-probabilities: 'window' must be at least 2 tokens, got {limit}")
    pairs = _split(tokenizer, prompts, continuations)
    plain, trees = _rows(prompts, pairs, limit, stride, tree())
    sums, counts = [0.0] * len(pairs), [0] * len(pairs)
    for rows in (plain, trees):  # a tree needs a mask of its own, a plain row none
        for batch in tokens.batches([len(row.ids) for row in rows], BUDGET):
            scored = [s for i in batch for s in rows[i].scored]
            for (_, _, item), value in zip(scored, run([rows[i] for i in batch]), strict=True):
                sums[item] += value
                counts[item] += 1
            if advance:
                advance(len(scored))
    return [LogProb(s, n) for s, n in zip(sums, counts, strict=True)]


def count(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]) -> int:
    """How many tokens ``log_probabilities`` will score."""
    return sum(len(ids) - start for ids, start in _split(tokenizer, prompts, continuations))


def _split(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> list[tuple[list[int], int]]:  # fmt: skip
    """Ids of every joined text, and the first that belongs to the continuation."""
    texts = [p + c for p, c in zip(prompts, continuations, strict=True)]
    if not texts:
        return []
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    mark, special = tokens.start_ids(tokenizer), set(tokenizer.all_special_ids)
    pairs = []
    for prompt, ids, offsets in zip(prompts, found["input_ids"], found["offset_mapping"], strict=True):
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        before = [] if ids and ids[0] in special else mark
        pairs.append(([*before, *ids], max(start + len(before), 1)))
    return pairs


def _rows(
    prompts: Sequence[str], pairs: Sequence[tuple[list[int], int]], limit: int, stride: int | None, tree: bool
) -> tuple[list[_Row], list[_Row]]:  # fmt: skip
    """Plain rows, and trees of the continuations that one prompt has."""
    groups: dict[str, list[int]] = {}
    alone = []
    for i, (prompt, (ids, _)) in enumerate(zip(prompts, pairs, strict=True)):
        if tree and len(ids) <= limit:
            groups.setdefault(prompt, []).append(i)
        else:
            alone.append(i)
    parts = [part for members in groups.values() for part in _parts(members, pairs)]
    alone += [part[0] for part in parts if len(part) == 1]
    trees = [_tree(part, pairs) for part in parts if len(part) > 1]
    plain = [row for i in alone for row in _plain(i, *pairs[i], limit, stride)]
    return plain + [row for row in trees if not row.branches], [row for row in trees if row.branches]


def _parts(members: list[int], pairs: Sequence[tuple[list[int], int]]) -> list[list[int]]:
    """Members that share a row: stems too short to save anything, and trees too large for a square mask, are parted."""
    stem = _stem(members, pairs)
    if stem < WORTH or stem > LARGEST:
        return [[i] for i in members]
    room = min(LARGEST, max(BUDGET // 2, stem + stem // 2))
    parts: list[list[int]] = []
    length = room + 1
    for i in members:
        length += len(pairs[i][0]) - 1 - stem
        if length > room:
            parts.append([])
            length = len(pairs[i][0]) - 1
        parts[-1].append(i)
    return parts


def _stem(members: list[int], pairs: Sequence[tuple[list[int], int]]) -> int:
    """How many tokens all members begin with, counting only those that no member scores."""
    first = pairs[members[0]][0][: min(pairs[i][1] for i in members)]
    return next((k for k, token in enumerate(first) if any(pairs[i][0][k] != token for i in members)), len(first))


def _tree(members: list[int], pairs: Sequence[tuple[list[int], int]]) -> _Row:
    stem = _stem(members, pairs)
    row = _Row(pairs[members[0]][0][:stem], [], [], stem)
    for i in members:
        ids, start = pairs[i]
        begin = len(row.ids)
        row.ids += ids[stem : len(ids) - 1]
        if len(row.ids) > begin:
            row.branches.append((begin, len(row.ids)))
        for at in range(start, len(ids)):
            row.scored.append((begin + at - stem - 1 if at > stem else stem - 1, ids[at], i))
    return row


def _plain(item: int, ids: list[int], start: int, limit: int, stride: int | None) -> list[_Row]:
    step = max(1, min(stride or limit // 2, limit - 1))
    rows: list[_Row] = []
    scored = start
    while scored < len(ids):
        # The first window is full; later ones begin so that ``step`` new tokens end at the window's end.
        end = min(len(ids), scored + step if rows else max(scored + step, limit))
        begin = max(0, end - limit)
        rows.append(_Row(ids[begin : end - 1], [(at - begin - 1, ids[at], item) for at in range(scored, end)], []))
        scored = end
    return rows


@torch.no_grad()
def _run(network: nn.Module, rows: list[_Row]) -> list[float]:
    labels = _labels(network, rows)
    if not len(labels):
        return []
    places = _read(network, rows)
    if places.head is None:
        return (-torch.nn.functional.cross_entropy(places.table.float(), labels, reduction="none")).tolist()
    return (-loss.per_token(places.table, places.head, labels)).tolist()


@torch.no_grad()
def _run_joint(
    networks: Sequence[nn.Module], combine: Callable[[list[Tensor]], Tensor], rows: list[_Row]
) -> list[float]:
    labels = _labels(networks[0], rows)
    if not len(labels):
        return []
    places = [_read(network, rows) for network in networks]
    found: list[float] = []
    step = max(1, loss.BYTES_A_CHUNK // (4 * places[0].words))
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        logits = combine([one.logits(part).to(labels.device) for one in places])  # [chunk, vocab]
        found += (-torch.nn.functional.cross_entropy(logits, labels[part], reduction="none")).tolist()
    return found


@dataclasses.dataclass(frozen=True)
class _Places:
    """What predicts the scored tokens: hidden states [n, dim] under a head [vocab, dim], or logits [n, vocab]."""

    table: Tensor
    head: Tensor | None

    @property
    def words(self) -> int:
        return len(self.head) if self.head is not None else self.table.shape[-1]

    def logits(self, part: slice) -> Tensor:
        rows = self.table[part]
        return (rows if self.head is None else rows @ self.head.to(rows.dtype).t()).float()


def _labels(network: nn.Module, rows: list[_Row]) -> Tensor:
    return torch.tensor([s[1] for row in rows for s in row.scored], device=next(network.parameters()).device)  # [n]


def _read(network: nn.Module, rows: list[_Row]) -> _Places:
    device = next(network.parameters()).device
    width = max(len(r.ids) for r in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
    given: dict[str, Any] = {"input_ids": ids.to(device), "use_cache": False}
    if rows[0].branches:
        mask, positions = _tree_inputs(rows, width)
        low = torch.finfo(next(network.parameters()).dtype).min
        given["attention_mask"] = torch.where(mask, 0.0, low).to(next(network.parameters()).dtype).to(device)
        given["position_ids"] = positions.to(device)
    at = torch.tensor([(i, s[0]) for i, row in enumerate(rows) for s in row.scored], device=device)  # [n, 2]
    head = loss.plain_head(network)
    if head is None:
        logits = loss.own_logits(network(**given).logits, ids)
        return _Places(logits[at[:, 0], at[:, 1]], None)
    return _Places(loss.decoder(network)(**given).last_hidden_state[at[:, 0], at[:, 1]], head)


def _tree_inputs(rows: list[_Row], width: int) -> tuple[Tensor, Tensor]:
    """Which position sees which [batch, 1, time, time], and where each stands [batch, time]."""
    mask = torch.ones((width, width), dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    positions = torch.arange(width).repeat(len(rows), 1)
    for i, row in enumerate(rows):
        for begin, end in row.branches:
            mask[i, begin:, row.stem : begin] = False
            positions[i, begin:end] = torch.arange(row.stem, row.stem + end - begin)
    mask |= torch.eye(width, dtype=torch.bool)  # padding sees itself: a row of nothing would be no number
    return mask[:, None], positions


def _honours_trees(network: nn.Module) -> bool:
    """Whether a tree gives this network's own values: tried on a small one, remembered on the network.

    A sliding window would show only on long rows, so a network that has one is not tried.
    """
    known = getattr(network, "_metier_honours_trees", None)
    if known is None:
        config: Any = network.config
        text = config.get_text_config()
        full = all(kind == "full_attention" for kind in getattr(text, "layer_types", None) or [])
        known = full and not getattr(text, "sliding_window", None) and _tree_differs(network) < TOLERANCE
        network._metier_honours_trees = known  # type: ignore[assignment]
    return bool(known)


def _tree_differs(network: nn.Module) -> float:
    """Largest difference, in nats a token, between three continuations in one tree and one by one."""
    vocabulary = int(loss.decoder(network).get_input_embeddings().num_embeddings)  # type: ignore[operator]
    ids = torch.randint(vocabulary, (4, 24), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(ids[0] + branch, 24) for branch in ids[1:]]
    try:
        together = _run(network, [_tree([0, 1, 2], pairs)])
    except (ValueError, RuntimeError, TypeError, IndexError):
        return math.inf
    apart = [value for i in range(3) for value in _run(network, _plain(i, *pairs[i], 48, None))]
    return max(abs(a - b) for a, b in zip(together, apart, strict=True))


def window_of(network: nn.Module) -> int:
    """Tokens the model can look back on, its own included."""
    config: Any = network.config
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2048)
