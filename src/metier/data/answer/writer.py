"""A writer answers prompts; a column tells how sure it is.

For prompts from `data.synthesize.questions`, from people, or from records whose answers are to be replaced. With
``passages`` the writer sees the text a prompt was made from, and the record does not: what is learnt is then known
without it. With more than one sample the answer most like the others is taken. Agreement is not truth: a writer may be
sure and wrong, and long answers agree little even when they are right.

    confidence = mean over the other samples of F1(words of the answer, words of the sample)
    with one sample: what the writer says of itself, else exp(logprob / tokens), else nothing

Options:
    samples: answers drawn for each prompt; more than one needs a temperature.
    system: words put before each prompt as the system's; they stay in the record.
    longest: characters of a passage the writer sees, at most.
    max_tokens: length of an answer, at most; what is cut off is dropped.
    temperature: 0 takes the likeliest words.
    top_p: draws among the likeliest words that make up this share.
    seed: decides what is drawn.
Raises: MetierError when there is no prompt, ``samples`` has no temperature, or no answer is left.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from metier.artefacts import Records, Row
from metier.lm import ask
from metier.lm.chat import Chat, Reply, Sampling
from metier.lm.tokens import Conversation
from metier.options import Count, MetierError, NonNegative, Seed, Share
from metier.store import Work

METHOD = "data.answer.writer"
WORD = re.compile(r"\w+")

EXAMPLE = {"data": "$asked"}


def write(
    data: Records,
    writer: Chat,
    passages: Records | None = None,
    *,
    samples: Count = 1,
    system: str = "",
    longest: Count = 3000,
    max_tokens: Count = 256,
    temperature: NonNegative = 0.0,
    top_p: Share = 0.95,
    seed: Seed = 0,
    work: Work,
) -> Records:
    """Rows: id (the prompt's), messages (the prompt and its answer), confidence, origin with lineage, other columns."""
    if samples > 1 and temperature == 0:
        raise MetierError(f"{METHOD}: 'samples' above 1 needs a 'temperature' above 0, else all samples are the same")
    texts = {} if passages is None else dict(zip(passages.column("id"), passages.column("text"), strict=True))
    reasons: Counter[str] = Counter()
    rows, asked = [], []
    for row in data:
        turns = prompt_of(row)
        passage = next((texts[i] for i in _parents(row) if i in texts), None)
        reason = "no prompt" if not turns else "no passage" if passages is not None and passage is None else None
        if reason:
            reasons[reason] += 1
            work.log(event="dropped", id=row["id"], reason=reason)
            continue
        turns = [{"role": "system", "content": system}, *turns] if system else turns
        rows.append((row, turns))
        asked.append(_shown(turns, (passage or "")[:longest]))
    if not rows:
        raise MetierError(f"{METHOD}: there is no prompt to answer in {len(data)} records: {dict(reasons)}")
    sampling = Sampling(max_tokens, temperature, top_p, samples, seed)
    replies = ask.ask(writer, asked, sampling, work=work, label="answering")
    made: list[Row] = []
    for i, (row, turns) in enumerate(rows):
        drawn = replies[i * samples : (i + 1) * samples]
        usable = [reply for reply in drawn if _reason(reply) is None]
        if not usable:
            reason = str(_reason(drawn[0]))
            reasons[reason] += 1
            work.log(event="dropped", id=row["id"], reason=reason, text=drawn[0].text[:200])
            continue
        best, confidence = chosen(usable)
        made.append(_row(row, turns, best, confidence, writer))
    work.log(event="kept", read=len(data), kept=len(made), dropped=dict(reasons))
    if not made:
        raise MetierError(f"{METHOD}: no answer is left of {len(data)} records: {dict(reasons)}")
    return Records.from_rows(made)


def chosen(replies: Sequence[Reply]) -> tuple[Reply, float | None]:
    """The reply most like the others (of equals the first), and how like them it is."""
    if len(replies) == 1:
        [only] = replies
        if only.confidence is None and only.logprob is not None and only.tokens:
            return only, math.exp(only.logprob / only.tokens)
        return only, only.confidence
    words = [Counter(WORD.findall(reply.text.lower())) for reply in replies]
    likeness = [sum(_f1(w, v) for j, v in enumerate(words) if j != i) / (len(words) - 1) for i, w in enumerate(words)]
    best = max(range(len(replies)), key=lambda i: (likeness[i], -i))
    return replies[best], likeness[best]


def prompt_of(row: Row) -> Conversation:
    """The turns up to the last one of the user: of a prompt (text or messages), or of whole conversations."""
    prompt = row.get("prompt") or row.get("messages") or []
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt.strip() else []
    last = max((i for i, turn in enumerate(prompt) if turn["role"] == "user"), default=-1)
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt[: last + 1]]


def _shown(turns: Conversation, passage: str) -> Conversation:
    if not passage:
        return turns
    return [*turns[:-1], {"role": "user", "content": f"{passage}\n\n{turns[-1]['content']}"}]


def _f1(a: Counter[str], b: Counter[str]) -> float:
    return 2 * (a & b).total() / (a.total() + b.total()) if a or b else 1.0


def _reason(reply: Reply) -> str | None:
    if reply.refused:
        return "refused"
    if not reply.text.strip():
        return "no answer"
    return "cut off" if reply.finish == "length" else None


def _parents(row: Row) -> list[str]:
    """The records a prompt was made from, the nearest first."""
    lineage = (row.get("origin") or {}).get("lineage") or []
    return [parent for step in reversed(lineage) for parent in step["parents"]]


def _row(row: Row, turns: Conversation, reply: Reply, confidence: float | None, writer: Chat) -> Row:
    origin = row.get("origin") or {}
    step = {"method": METHOD, "writer": writer.digest, "parents": [row["id"]]}
    rest = {k: v for k, v in row.items() if k not in ("prompt", "messages", "completion", "text")}
    return rest | {
        "messages": [*turns, {"role": "assistant", "content": reply.text.strip()}],
        "confidence": confidence,
        "origin": {**origin, "lineage": [*(origin.get("lineage") or []), step]},
    }
