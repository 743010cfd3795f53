"""A writer makes questions of documents: a prompt for each thing a text tells.

For getting from documents to instructions: `data.answer.writer` answers what is written here. Every question must stand
without its text, so those that speak of "the passage" go. What stays of a question's record is where it came from, not
the text. Not a check that the text answers the question, nor that questions differ in more than words.

The writer reads ``prompt``, with {n} and {title} filled in, a blank line, and the text. Its reply may be a numbered
or bulleted list, lines, or JSON (`lm.parse`).

Options:
    per_record: questions asked for about each text.
    prompt: what the writer is told.
    longest: characters of a text the writer sees, at most.
    max_tokens: length of the writer's reply, at most.
    temperature: 0 takes the likeliest words.
    top_p: draws among the likeliest words that make up this share.
    seed: decides what is drawn.
Raises: MetierError when there is no text, or no question is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from metier.artefacts import Records, Row
from metier.lm import ask, parse
from metier.lm.chat import Chat, Reply, Sampling
from metier.options import Count, MetierError, NonNegative, Seed, Share
from metier.store import Work

METHOD = "data.synthesize.questions"
PROMPT = (
    "Write {n} different questions that are answered by the passage below. "
    "Each must be understood without the passage. Number them and write nothing else."
)
OF_THE_TEXT = re.compile(
    r"\b(?:the|this|that) (?:given |above |following )?(?:passage|text|document|paragraph|article|excerpt|author)\b",
    re.I,
)
WORD = re.compile(r"\w+")
LEAST_WORDS = 3

EXAMPLE = {"data": "$told"}


def write(
    data: Records,
    writer: Chat,
    *,
    per_record: Count = 3,
    prompt: str = PROMPT,
    longest: Count = 3000,
    max_tokens: Count = 256,
    temperature: NonNegative = 0.7,
    top_p: Share = 0.95,
    seed: Seed = 0,
    work: Work,
) -> Records:
    """Rows: id (``<record>/q1`` …), prompt (messages), origin with lineage, and the record's other columns."""
    texts = [row for row in data if (row.get("text") or "").strip()]
    if not texts:
        raise MetierError(f"{METHOD}: the data has no text to ask about")
    asked = [_told(row, prompt, per_record, longest) for row in texts]
    sampling = Sampling(max_tokens, temperature, top_p, seed=seed)
    replies = ask.ask(writer, asked, sampling, work=work, label="writing questions")
    rows: list[Row] = []
    seen: dict[str, str] = {}  # the words of a question → its id
    dropped = Counter({"no text": len(data) - len(texts)}) if len(data) > len(texts) else Counter[str]()
    for parent, reply in zip(texts, replies, strict=True):
        for k, (question, reason) in enumerate(candidates(reply, per_record), start=1):
            name, words = f"{parent['id']}/q{k}", " ".join(WORD.findall(question.lower()))
            reason = reason or ("repeats another" if words in seen else None)
            if reason:
                dropped[reason] += 1
                work.log(event="dropped", id=name, reason=reason, text=question, like=seen.get(words))
            else:
                seen[words] = name
                rows.append(_row(parent, name, question, writer))
    work.log(event="kept", read=len(rows) + dropped.total(), kept=len(rows), dropped=dict(dropped))
    if not rows:
        raise MetierError(f"{METHOD}: no question is left of {len(data)} records: {dict(dropped)}")
    return Records.from_rows(rows)


def candidates(reply: Reply, most: int) -> Iterator[tuple[str, str | None]]:
    """What the reply lists, each with the reason why it is not taken, if there is one."""
    if reply.refused:
        yield reply.text, "refused"
        return
    read = parse.items(reply.text)
    last = len(read.found) - 1
    for i, question in enumerate(read.found):
        reason = None
        if i >= most:
            reason = "more than asked for"
        elif i == last and reply.finish == "length" and not question.endswith("?"):
            reason = "cut off"
        elif len(question.split()) < LEAST_WORDS:
            reason = "too short"
        elif OF_THE_TEXT.search(question):
            reason = "speaks of its text"
        yield question, reason
    for problem in read.unread:
        yield problem, "cannot be read"


def _told(row: Row, prompt: str, number: int, longest: int) -> list[dict[str, str]]:
    text = row["text"] if len(row["text"]) <= longest else row["text"][:longest].rsplit(None, 1)[0]
    request = prompt.replace("{n}", str(number)).replace("{title}", row.get("title") or "")
    return [{"role": "user", "content": f"{request}\n\n{text}"}]


def _row(parent: Row, name: str, question: str, writer: Chat) -> Row:
    origin = parent.get("origin") or {}
    step = {"method": METHOD, "writer": writer.digest, "parents": [parent["id"]]}
    rest = {k: v for k, v in parent.items() if k not in ("text", "messages", "prompt")}
    return rest | {
        "id": name,
        "prompt": [{"role": "user", "content": question}],
        "origin": {**origin, "lineage": [*(origin.get("lineage") or []), step]},
    }
