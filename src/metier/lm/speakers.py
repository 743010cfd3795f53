"""Whose words the tokens of a record are, for losses that choose what is learnt."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from metier.artefacts import Row
from metier.lm import tokens
from metier.lm.loss import IGNORED
from metier.lm.pieces import CUT, pieces_places
from metier.options import MetierError

TEMPLATE, SYSTEM, USER, ASSISTANT, TOOL = range(5)  # template: marks between turns, and replies of weight 0
CODES = {"system": SYSTEM, "user": USER, "tool": TOOL}


def of(tokenizer: PreTrainedTokenizerBase, record: Row) -> np.ndarray[Any, np.dtype[np.int8]]:
    """The code of every token that ``tokens.supervised`` gives for the record: [time].

    What is supervised there, the end of a reply included, is the assistant's; of a text without turns all is. A token
    that lies across the border of a message is the message's.
    Raises MetierError as ``supervised`` does, and when a template changes the words of a message.
    """
    _, labels = tokens.supervised(tokenizer, record)
    found = np.where(np.array(labels) == IGNORED, TEMPLATE, ASSISTANT).astype(np.int8)
    messages = tokens.messages_of(record)
    if messages is not None:
        _mark(found, tokenizer, messages, tokens.named(record))
    elif record.get("completion") is not None:
        found[len(tokens.first_ids(tokenizer)) :][found[len(tokens.first_ids(tokenizer)) :] == TEMPLATE] = USER
    return found


def _mark(found: np.ndarray[Any, Any], tokenizer: PreTrainedTokenizerBase, messages: Any, name: str) -> None:
    whole, pieces, given = tokens.turns(tokenizer, messages, name)
    text, places = whole.replace(CUT, ""), pieces_places(tokenizer, pieces)
    done = 0
    for number, message in enumerate(given, start=1):
        words = message["content"].replace(CUT, "").strip()
        start = text.find(words, done)
        if start < 0:
            raise MetierError(f"{name}: the chat template changes message {number}, so its words cannot be told apart")
        done = start + len(words)
        if message["role"] in CODES and words:
            first = max(bisect.bisect_right(places, start) - 1, 0)
            found[first : bisect.bisect_left(places, done)] = CODES[message["role"]]
