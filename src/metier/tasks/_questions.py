"""Questions to held-out documents, made by rule: from sentences that define, else from headings."""

from __future__ import annotations

import re
from collections.abc import Callable

from metier.artefacts import Row

VERBS = "is|are|means|refers to|denotes|describes|specifies|represents|provides|defines|creates|returns|displays|lists"
TERM = r"(?:(?:An?|The|This) )?[\"“‘'`*_]*[^\W\d_][^.,:;()|=<>\n]{2,45}?"
DEFINES = re.compile(rf"^(?P<term>{TERM})[\"”’'`*_]* (?P<verb>{VERBS}) (?P<rest>.+)$")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"“A-Z])|\n\s*\n|\n\s*[*-] ")
VAGUE = frozenset({
    "it", "this", "that", "these", "those", "there", "what", "which", "they", "he", "she", "if", "when", "note", "for",
    "in", "such", "see", "all", "each", "both", "some", "most", "here", "following", "always", "also", "then", "only",
    "often",
})  # fmt: skip
# What follows "is" or "are" in a definition: "a function which …", "functions that …", "used to …".
IS = re.compile(r"(?:an?|the|one|any|those)\b|\w+s (?:that|which|who|of|for|in)\b|used (?:to|for)\b")
PLAIN = {"specifies": "specify"}
MOST_WORDS = 5  # of a term


def items(chunks: list[Row], count: int, *, body: Callable[[Row], str]) -> list[Row]:
    """At most ``count`` questions, one a document while there are enough of them; definitions before headings."""
    rows: list[Row] = []
    for kind in (_definition, _heading):
        for chunk in chunks:
            asked = {row["document"] for row in rows}
            if len(rows) < count and chunk["document"] not in asked and (made := kind(chunk, body(chunk))):
                question, reference = made
                rows.append({
                    "id": f"questions/{chunk['id']}", "measure": "questions", "cluster": chunk["group"],
                    "document": chunk["document"], "title": chunk["title"], "heading": chunk["heading"],
                    "prompt": question, "reference": reference,
                })  # fmt: skip
    return rows


def _definition(chunk: Row, text: str) -> tuple[str, str] | None:
    for sentence in SENTENCE.split(text):
        sentence = " ".join(sentence.split())
        found = DEFINES.match(sentence)
        if not found or not 40 <= len(sentence) <= 300 or not sentence.endswith("."):
            continue
        term, verb = found["term"].replace("*", "").strip("“”‘’'`_ "), found["verb"]
        words = term.split()
        if term.count('"') % 2 or (verb in ("is", "are") and not IS.match(found["rest"])):
            continue
        if len(words) <= MOST_WORDS and not {word.lower() for word in words} & VAGUE:
            return f"{_about(chunk)}{_question(_lower(term), verb)}", sentence
    return None


def _heading(chunk: Row, text: str) -> tuple[str, str] | None:
    heading = (chunk["heading"] or chunk["title"] or "").split(" > ")[-1]
    sentences = (" ".join(s.split()) for s in SENTENCE.split(text))
    first = next((s for s in sentences if 40 <= len(s) <= 300 and s.endswith(".") and s[0].isupper()), "Here")
    if not heading or first.split()[0].lower() in VAGUE or first.endswith(("follows.", "following.")):
        return None
    return f"{_about(chunk, besides=heading)}Explain “{heading}” in one sentence.", first


def _question(term: str, verb: str) -> str:
    if verb in ("is", "are"):
        return f"What {verb} {term}?"
    first, _, rest = verb.partition(" ")
    plain = f"{PLAIN.get(first, first.removesuffix('s'))} {rest}".strip()
    return f"What does {term} {plain}?"


def _about(chunk: Row, besides: str = "") -> str:
    title = chunk["title"]
    return f"The document is “{title}”. " if title and title != besides else ""


def _lower(term: str) -> str:
    first, _, rest = term.partition(" ")
    return f"{first.lower()} {rest}" if first in ("A", "An", "The", "This") and rest else term
