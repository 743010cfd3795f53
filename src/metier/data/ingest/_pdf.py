"""PDF → text page by page: larger type becomes headings, running heads and page numbers go."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator

from pdfminer.high_level import extract_pages
from pdfminer.layout import LTChar, LTPage, LTTextBox, LTTextLine
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect

from metier.data.ingest._decode import Unreadable

LARGER = 1.15  # type this much larger than the body's is a heading
LEVELS = 4
APART = 0.2  # of the type size: a gap this much over the usual one begins a paragraph
AWAY = 1.2  # of the type size: a gap this large sets a running head off
LIGATURES = {
    0xFB00: "ff",
    0xFB01: "fi",
    0xFB02: "fl",
    0xFB03: "ffi",
    0xFB04: "ffl",
    0xFB05: "st",
    0xFB06: "st",
    0xA0: " ",
}


@dataclasses.dataclass
class _Line:
    text: str
    size: float  # points, of most of its characters
    top: float  # points from the bottom of the page
    bottom: float


@dataclasses.dataclass
class _Edge:
    lines: list[_Line]
    text: str  # digits made equal
    height: int
    away: bool  # from the rest of the page


def read(data: bytes) -> tuple[str, list[int]]:
    """The text, and where each page begins in it (characters).

    Raises Unreadable: encrypted, damaged, or nothing but pictures.
    """
    try:
        pages = [list(_lines(page)) for page in extract_pages(io.BytesIO(data))]
    except (PDFPasswordIncorrect, PDFEncryptionError):
        raise Unreadable("encrypted") from None
    except Exception as error:  # pdfminer meets damaged files with whatever its parsing trips over
        raise Unreadable(f"damaged pdf ({type(error).__name__})") from None
    pages = _without_running_heads(pages)
    if not any(pages):
        raise Unreadable("pdf without text (scanned?)")
    levels = _levels(pages)
    usual = statistics.median([_gap(a, b) for page in pages for a, b in itertools.pairwise(page)
                               if a.size == b.size and -a.size < _gap(a, b) < 3 * a.size] or [0.0])  # fmt: skip
    text, starts = "", []
    for page in pages:
        body = _joined(page, levels, usual)
        # A sentence that runs over the page's end stays one paragraph.
        goes_on = bool(re.search(r"[^.!?:\s]\Z", text)) and bool(re.match(r"[a-z]", body))
        text += ("\n" if goes_on else "\n\n") if text and body else ""
        starts.append(len(text))
        text += body
    return text, starts


def _lines(page: LTPage) -> Iterator[_Line]:
    for box in (b for b in page if isinstance(b, LTTextBox)):
        for line in (one for one in box if isinstance(one, LTTextLine)):
            sizes = Counter(round(c.size * 2) / 2 for c in line if isinstance(c, LTChar))
            text = line.get_text().translate(LIGATURES).strip("\n").rstrip()
            if sizes and text.strip():
                yield _Line(text, sizes.most_common(1)[0][0], line.y1, line.y0)


def _without_running_heads(pages: list[list[_Line]]) -> list[list[_Line]]:
    """Drops lone page numbers, and top and bottom rows that most pages repeat.

    A row is repeated when its text is, but for the digits, or when it is set off by a gap at the same height.
    """
    edges = [edge for page in pages for edge in _edges(page)]
    texts = Counter(edge.text for edge in edges)
    heights = Counter(edge.height for edge in edges if edge.away)
    gone = {id(line) for edge in edges for line in edge.lines
            if texts[edge.text] > max(2, len(pages) / 2) or re.fullmatch(r"[\s0\-–—|/.]+|[ivxlc]+", edge.text)
            or (edge.away and heights[edge.height] > max(2, len(pages) / 3))}  # fmt: skip
    return [[line for line in page if id(line) not in gone] for page in pages]


def _edges(page: list[_Line]) -> Iterator[_Edge]:
    """The top and the bottom row of a page, when they are short."""
    for side in (1, -1):
        order = sorted(page, key=lambda line: -side * line.bottom)
        row = [line for line in order if abs(line.bottom - order[0].bottom) < 3]
        rest = order[len(row) :]
        text = " ".join(re.sub(r"\d+", "0", line.text.strip()) for line in row)
        if row and len(text) <= 120:
            away = not rest or (_gap(row[0], rest[0]) if side > 0 else _gap(rest[0], row[0])) > AWAY * rest[0].size
            yield _Edge(row, text, round(row[0].bottom / 3), away)


def _levels(pages: list[list[_Line]]) -> dict[float, int]:
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page:
            sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0]
    larger = sorted((s for s in sizes if s >= LARGER * body), reverse=True)
    return {size: min(level, LEVELS) for level, size in enumerate(larger, start=1)}


def _gap(above: _Line, below: _Line) -> float:
    return above.bottom - below.top


def _joined(lines: list[_Line], levels: dict[float, int], usual: float) -> str:
    parts: list[str] = []
    before: _Line | None = None
    for line in lines:
        level = levels.get(line.size, 0)
        close = (before is not None and before.size == line.size
                 and -line.size < _gap(before, line) <= usual + APART * line.size)  # fmt: skip
        if close and level:
            parts[-1] += f" {line.text.strip()}"
        elif close:
            parts[-1] += f"\n{line.text}"
        else:
            parts.append(f"{'#' * level} {line.text.strip()}" if level else line.text)
        before = line
    return "\n\n".join(parts)
