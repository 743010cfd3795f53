"""Whose words the tokens of a record are, for losses that choose what is learnt."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Row
from metier.lm import tokens
from metier.lm.loss import IGNORED
from metier.lm.pieces import CUT, pieces_spans
from metier.options import MetierError

Roles = np.ndarray[Any, np.dtype[np.int8]]
TEMPLATE, SYSTEM, USER, ASSISTANT, TOOL, MUTED = range(6)  # template: marks between turns; muted: replies of weight 0
CODES = {"system": SYSTEM, "user": USER, "tool": TOOL}
MARK = re.compile(f"{CUT}{CUT}(\\d?){CUT}{CUT}")  # with a code before the words of a message, without behind them


def of(tokenizer: PreTrainedTokenizerBase, record: Row) -> Roles:
    """The code of every token that ``tokens.supervised`` gives for the record: [time].

    What is supervised there, the end of a reply included, is the assistant's; of a text without turns all is. A token
    that lies across the border of a message is the message's; blanks around its words are the template's.
    Raises MetierError as ``supervised`` does, and when a template shows a part of a message, or looks into it.
    """
    found = _replies(tokenizer, record)
    messages = tokens.messages_of(record)
    if messages is not None:
        name = tokens.named(record)
        _mark(found, tokenizer, messages, name)
        if any(m.get("weight") == 0 for m in messages):
            spoken = {"id": record.get("id"), "messages": [m | {"weight": None} for m in messages]}
            found[(_replies(tokenizer, spoken) == ASSISTANT) & (found == TEMPLATE)] = MUTED
    elif record.get("completion") is not None:
        asked = found[len(tokens.first_ids(tokenizer)) :]
        asked[asked == TEMPLATE] = USER
    return found


def _replies(tokenizer: PreTrainedTokenizerBase, record: Row) -> Roles:
    _, labels = tokens.supervised(tokenizer, record)
    return np.where(np.array(labels) == IGNORED, TEMPLATE, ASSISTANT).astype(np.int8)


def _mark(found: Roles, tokenizer: PreTrainedTokenizerBase, messages: Any, name: str) -> None:
    """Looks for no word in the text, where a short one may stand anywhere, but has the template carry marks along."""
    whole, pieces, given = tokens.turns(tokenizer, messages, name)
    marked = [m | {"content": _between(m["content"], CODES[m["role"]])} if m["role"] in CODES else m for m in given]
    text, *behind = MARK.split(tokens.render(tokenizer, marked, reply=False))
    codes, texts = behind[::2], behind[1::2]  # a mark, and the text from there to the next one
    if "".join([text, *texts]) != whole or [*map(bool, codes)] != [True, False] * (len(codes) // 2):
        raise MetierError(f"{name}: the chat template cuts up a message, so whose words are whose cannot be told")
    starts, ends = np.array(pieces_spans(tokenizer, pieces), np.int64).reshape(-1, 2).T
    last = len(text.replace(CUT, ""))
    for code, words in zip(codes, texts, strict=True):
        first, last = last, last + len(words.replace(CUT, ""))
        if code:
            found[(starts < last) & (ends > first)] = int(code)


def _between(content: str, code: int) -> str:
    """The message with marks around its words, inside the blanks that a template may take away."""
    words = content.strip()
    before, after = content.split(words, 1) if words else (content, "")
    return f"{before}{CUT}{CUT}{code}{CUT}{CUT}{words}{CUT * 4}{after}" if words else content
