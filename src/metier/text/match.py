"""How close a reply is to a reference, in words: exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def exact(reply: str, reference: str) -> float:
    """1 when both are the same but for case, punctuation, articles and blanks (as SQuAD counts), else 0."""
    return float(_plain(reply) == _plain(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of the shares of words in common, case and punctuation aside; 0 when either says nothing."""
    said, wanted = (Counter(re.findall(r"\w+", text.lower())) for text in (reply, reference))
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0


def _plain(text: str) -> str:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())
