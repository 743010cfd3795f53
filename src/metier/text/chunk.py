"""Text into chunks along its structure: sections, paragraphs, code and lists kept whole where they fit."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterator

from metier.text import unwrap

SMALL = 0.25  # the share of the size under which a section's last piece joins the one before, and
TINY = 0.125  # under which a whole section joins the next one of the same parent
OVER = 1.25  # how much longer than the size a chunk may get by such joining

SENTENCE = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])|[。！？]\s*")
LINES = re.compile(r"\n")
PARAGRAPHS = re.compile(r"\n[ \t]*\n[ \t\n]*")
WORDS = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of a text: what it says, where it stands in the text it was cut from, under which headings."""

    text: str
    start: int  # characters, the first one of the piece
    end: int
    heading: str  # "A > B"; empty before the first heading


@dataclasses.dataclass(frozen=True)
class _Piece:
    kind: unwrap.Kind
    start: int
    end: int


@dataclasses.dataclass
class _Section:
    path: tuple[str, ...]
    pieces: list[_Piece]


def chunks(text: str, size: int = 1600, *, typeset: bool = False) -> list[Chunk]:
    """Cuts a text into chunks of about ``size`` characters (at most 1.25 times that, but for unbroken code words).

    Chunks follow each other and hold every character that is not white space; wrapped lines are joined (`unwrap`).
    A chunk never reaches over a heading, except that a section with hardly any text joins its next sibling or child.
    Paragraphs are kept whole; longer ones end at sentences, lists at items, code at blank lines, then at lines.
    """
    words = unwrap.vocabulary(text)
    found = []
    for path, pieces in _packed(text, size, typeset):
        parts = [(p, unwrap.render(p.kind, text[p.start : p.end], words, typeset)) for p in pieces]
        body = parts[0][1]
        for (before, _), (piece, rendered) in itertools.pairwise(parts):
            body += _gap(text[before.end : piece.start], before, piece) + rendered
        found.append(Chunk(body, pieces[0].start, pieces[-1].end, " > ".join(path)))
    return found


def title(text: str) -> str:
    """The first heading of the highest level among a text's first ten blocks, or nothing."""
    headings = [b for b in unwrap.blocks(text[:20_000])[:10] if b.kind == "heading"]
    return min(headings, key=lambda b: b.level).title if headings else ""


def _packed(text: str, size: int, typeset: bool) -> Iterator[tuple[tuple[str, ...], list[_Piece]]]:
    for section in _joined(_sections(text, typeset), size):
        packs: list[list[_Piece]] = []
        length = 0
        for piece in (small for whole in section.pieces for small in _cut(whole, text, size)):
            # A heading goes with what follows it, so it never ends a chunk.
            follows = bool(packs) and all(p.kind == "heading" for p in packs[-1])
            if packs and (length + piece.end - piece.start <= size or follows):
                packs[-1].append(piece)
                length += piece.end - piece.start + 2
            else:
                packs.append([piece])
                length = piece.end - piece.start
        if len(packs) > 1 and _length(packs[-1]) < SMALL * size and _length(packs[-2] + packs[-1]) <= OVER * size:
            packs[-2:] = [packs[-2] + packs[-1]]
        for pack in packs:
            yield section.path, pack


def _sections(text: str, typeset: bool) -> list[_Section]:
    path: list[tuple[int, str]] = []
    sections: list[_Section] = []
    for block in unwrap.blocks(text, typeset=typeset):
        if block.kind == "heading":
            path = [(level, name) for level, name in path if level < block.level] + [(block.level, block.title)]
            opens = bool(sections) and all(p.kind == "heading" for p in sections[-1].pieces)
            if not (opens and len(path) > len(sections[-1].path)):
                sections.append(_Section((), []))
            sections[-1].path = tuple(name for _, name in path)
        elif not sections:
            sections.append(_Section((), []))
        sections[-1].pieces.append(_Piece(block.kind, block.start, block.end))
    return sections


def _joined(sections: list[_Section], size: int) -> Iterator[_Section]:
    held: _Section | None = None
    for section in sections:
        if held is None:
            held = section
            continue
        parent = held.path[:-1]
        kin = section.path[: len(parent)] == parent and len(section.path) >= len(held.path)
        if kin and _length(held.pieces) < TINY * size and _length(held.pieces + section.pieces) <= size:
            held = _Section(held.path, held.pieces + section.pieces)
        else:
            yield held
            held = section
    if held is not None:
        yield held


def _length(pieces: list[_Piece]) -> int:
    return pieces[-1].end - pieces[0].start


def _cut(piece: _Piece, text: str, size: int) -> list[_Piece]:
    """The piece itself, or parts of at most the size: at the best kind of break that stands late enough in it."""
    if piece.end - piece.start <= size:
        return [piece]
    raw = text[piece.start : piece.end]
    if piece.kind == "prose":
        kinds = [SENTENCE, WORDS]
    elif piece.kind == "list":
        kinds = [re.compile(rf"\n(?={unwrap.ITEM.pattern})"), SENTENCE, WORDS]
    else:
        kinds = [PARAGRAPHS, LINES, SENTENCE, WORDS]
    breaks = [[m.end() for m in pattern.finditer(raw)] for pattern in kinds]
    parts, start = [], 0
    while len(raw) - start > size:
        cut = start + size
        for at in breaks:
            last = bisect.bisect_right(at, start + size) - 1
            if last >= 0 and at[last] > start + size // 3:
                cut = at[last]
                break
        parts.append((start, cut))
        start = cut
    parts.append((start, len(raw)))
    trimmed = (_trimmed(raw, *part) for part in parts)
    return [_Piece(piece.kind, piece.start + a, piece.start + b) for a, b in trimmed if b > a]


def _trimmed(raw: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space at either end, but with the indentation of the first line."""
    part = raw[start:end]
    kept = part.rstrip()
    lead = len(kept) - len(kept.lstrip())
    lead = kept.rfind("\n", 0, lead) + 1
    return start + lead, start + len(kept)


def _gap(raw: str, before: _Piece, after: _Piece) -> str:
    newlines = raw.count("\n")
    if "heading" in (before.kind, after.kind) or newlines > 1:
        return "\n\n"
    return "\n" if newlines or before.kind == "verbatim" else " "
