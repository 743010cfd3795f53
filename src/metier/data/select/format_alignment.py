"""Which examples teach format alone: known in substance, harder in the template.

For the short alignment after continued pre-training: the model knows what to say and is to learn only how it is said.
Of the records whose reply it finds easiest when it reads question and reply as plain text, those come first whose reply
the chat template makes least likely in comparison. Take a few per cent with `keep`. Not for choosing what to learn
facts from, nor for a model that already answers in its template.

    plain = L(r | question as text)       templated = L(r | question in the template)       score = templated / plain

L is the mean −log p of the reply's tokens, without the token that ends it. Records that are not among the easy share
score −plain, so they come after every easy one, the easiest first.

Paper: 97
Options:
    easy: share of the records, by the least `plain`, of which format may be learnt.
Raises: MetierError when no record has a reply, or the template refuses a conversation.
Differs: the published score is a ratio of losses with and without template; which of them is on top, and how it goes
    with the easiest records, is our choice. Of preferences the better reply counts.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from metier.artefacts import Model, Records, Row, Scores
from metier.lm import load, tokens
from metier.lm.chat import Chat
from metier.options import MetierError, Share
from metier.store import Work
from metier.text import plain

NAME = "data.select.format_alignment"
LEAST = 1e-6  # nats a token: a reply known by heart is no divisor


def score(data: Records, model: Model, *, easy: Share = 0.33, work: Work) -> Scores:
    """One row a record: the score, or *no reply*; columns ``plain`` and ``templated``, in nats per token."""
    found = {row["id"]: plain.asked_and_said(row) for row in data}
    # By id, so that batches, and with them the last digits, do not depend on the order of the records.
    known = {name: said for name, said in sorted(found.items()) if said is not None and said[1].strip()}
    if not known:
        raise MetierError(f"{NAME}: no record has a reply")
    tokenizer, chat = load.tokenizer_of(model), load.open(model)
    replies = [reply for _, reply in known.values()]
    with work.progress("reading with and without template", 2 * len(known)) as bar:
        as_text = _losses(chat, [plain.before(asked) for asked, _ in known.values()], replies)
        bar.advance(len(known))
        in_template = _losses(chat, [_framed(tokenizer, n, asked) for n, (asked, _) in known.items()], replies)
        bar.advance(len(known))
    chat.close()
    rows = dict(zip(known, zip(as_text, in_template, strict=True), strict=True))
    first = set(sorted(rows, key=lambda name: (rows[name][0], name))[: max(1, round(easy * len(rows)))])
    return Scores.from_rows(_row(name, rows.get(name), name in first) for name in data.column("id"))


def _row(name: str, losses: tuple[float, float] | None, easy: bool) -> Row:
    if losses is None:
        return {"id": name, "score": None, "reason": "no reply", "plain": None, "templated": None}
    text, template = losses
    value = template / max(text, LEAST) if easy else -text
    return {"id": name, "score": value, "reason": None, "plain": text, "templated": template}


def _framed(tokenizer: PreTrainedTokenizerBase, name: str, asked: list[Row] | str) -> str:
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    try:
        return tokens.render(tokenizer, [{"role": t["role"], "content": t["content"]} for t in turns], reply=True)
    except MetierError as error:
        raise MetierError(f"{NAME}: record '{name}': {error}") from None


def _losses(chat: Chat, prompts: list[str], replies: list[str]) -> list[float]:
    """Mean −log p of each reply's tokens, in nats."""
    return [-found.sum / max(found.tokens, 1) for found in chat.logprobs(prompts, replies)]
