"""Text as blocks: headings, prose, lists, verbatim; hard-wrapped lines joined to paragraphs.

Every block knows where it stands in the text, so that a chunk made of blocks can say its exact offset. A group of
lines is joined only when it looks wrapped: evenly indented, and each line so full that the next word had no room.
Everything else (code, tables, grammar productions, verse, addresses) keeps its lines.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Literal

Kind = Literal["heading", "prose", "list", "verbatim"]

LONGEST_HEADING = 120
FULL = 0.85  # a line counts as wrapped when the next word would have passed this share of the text's width
WRAPPED = 0.8  # and a group when this share of its lines does
TYPESET = 0.5  # or this share, where letters differ in width and long words leave lines short

ATX = re.compile(r"(#{1,6})[ \t]+(\S.*?)[ \t]*#*$")
RULE = re.compile(r"([=*~^\"'+#`:.\-_])\1{2,}$")
FENCE = re.compile(r"[ \t]*(```+|~~~+)")
ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦▪·–]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)])[ \t]+\S")
MAN_HEADING = re.compile(r"[A-Z][A-Z0-9 ,/()&'-]{2,}$")
TABLE = re.compile(r"[ \t]*(?:\||\+[-=+]{2,})|.*\S[ \t]*\|[ \t]*\S.*\|")
VERBATIM = re.compile(r"[ \t]*(?:>>> |\.\.\. |[$%] |>)|.*::=|.*(?:\.[ \t]?){5,}")
COLUMNS = re.compile(r"[^\s.!?:][ \t]{3,}\S")
CODE_END = re.compile(r"[;{}]\s*$|^\s*(?:return|import|from|def|class|if|for|while)\b.*[:;(]\s*$")
WORD = re.compile(r"\w[\w’']*(?:-\w[\w’']*)*")


@dataclasses.dataclass(frozen=True)
class Block:
    """Lines ``text[start:end]`` of one kind; a heading has a level (1 = top) and a title without its decoration."""

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""


@dataclasses.dataclass(frozen=True)
class _Line:
    start: int
    text: str  # without its line end

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def indent(self) -> int:
        text = self.text.expandtabs()
        return len(text) - len(text.lstrip())

    @property
    def length(self) -> int:
        return len(self.text.rstrip().expandtabs())

    @property
    def blank(self) -> bool:
        return not self.text.strip()


@dataclasses.dataclass(frozen=True)
class _Page:
    width: int
    wrapped: float


def unwrap(text: str, *, typeset: bool = False) -> str:
    """The text with wrapped lines joined; headings lose their underlines. See `render` for ``typeset``."""
    words = vocabulary(text)
    return "\n\n".join(render(block.kind, text[block.start : block.end], words, typeset) for block in blocks(text))


def blocks(text: str, *, typeset: bool = False) -> list[Block]:
    """The blocks of a text in order; every character that is not white space lies in exactly one."""
    lines = _lines(text)
    page = _Page(_width(lines), TYPESET if typeset else WRAPPED)
    styles: list[str] = []  # underline characters in order of first use: reStructuredText's levels
    atx = any(ATX.match(line.text) for line in lines)
    man = not atx and any(line.text.rstrip() == "NAME" for line in lines)
    found: list[Block] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.blank:
            i += 1
        elif (heading := _heading(lines, i, styles, atx, man)) is not None:
            block, i = heading
            found.append(block)
        elif fence := FENCE.match(line.text):
            j = i + 1
            while j < len(lines) and not lines[j].text.strip().startswith(fence[1]):
                j += 1
            j = min(j, len(lines) - 1)
            found.append(Block("verbatim", line.start, lines[j].end))
            i = j + 1
        else:
            j = i + 1
            while j < len(lines) and not lines[j].blank and not FENCE.match(lines[j].text) \
                    and _heading(lines, j, list(styles), atx, man) is None:  # fmt: skip
                j += 1
            found += _group(lines[i:j], page)
            i = j
    return list(_code_with_gaps(found, text))


def render(kind: Kind, raw: str, words: frozenset[str] = frozenset(), typeset: bool = False) -> str:
    """A block's lines as they should be read: prose on one line, list items one a line, verbatim untouched, headings
    without the rules above and below them.

    ``words`` (see `vocabulary`) decides about words broken at line ends: the hyphen goes when the joined word stands
    elsewhere in the text and the hyphenated one does not; in doubt it stays, unless the text was ``typeset``.
    """
    if kind == "prose":
        indent = raw[: len(raw) - len(raw.lstrip())]
        return indent.rpartition("\n")[2] + _join(raw.split("\n"), words, typeset)
    if kind == "heading":
        return next(line.strip() for line in raw.split("\n") if not RULE.match(line.rstrip()))
    if kind == "list":
        items: list[list[str]] = []
        for line in raw.split("\n"):
            if ITEM.match(line) or not items:
                items.append([line.rstrip()])
            else:
                items[-1].append(line)
        return "\n".join(
            item[0][: len(item[0]) - len(item[0].lstrip())] + _join(item, words, typeset) for item in items
        )
    return "\n".join(line.rstrip() for line in raw.strip("\n").split("\n")).rstrip()


def vocabulary(text: str) -> frozenset[str]:
    """The words of a text in lower case, hyphenated ones whole; empty when no line ends in a hyphen."""
    if not re.search(r"\w[-\u00ad\u2010]\n", text):
        return frozenset()
    return frozenset(word.lower() for word in WORD.findall(text))


def _join(lines: list[str], words: frozenset[str], typeset: bool) -> str:
    joined = ""
    for line in (line.strip() for line in lines):
        if joined.endswith("\u00ad"):
            joined = joined[:-1] + line
        elif joined.endswith(("-", "\u2010")) and joined[-2:-1].isalnum() and line[:1].isalpha():
            head, tail = WORD.findall(joined[-80:-1])[-1:], WORD.match(line)
            first, second = (head[0] if head else ""), (tail[0] if tail else "")
            whole, split = f"{first}{second}".lower(), f"{first}-{second}".lower()
            # U+2010 is what typesetters such as groff break words with; a hyphen of the author's is mostly "-".
            sure = whole in words or typeset or joined.endswith("\u2010")
            breaks = line[0].islower() and split not in words and sure
            joined = (joined[:-1] if breaks else joined) + line
        else:
            joined += (" " if joined and line else "") + line
    return re.sub(r"[ \t]{2,}", " ", joined)


def _heading(lines: list[_Line], i: int, styles: list[str], atx: bool, man: bool) -> tuple[Block, int] | None:
    line, after = lines[i], lines[i + 1] if i + 1 < len(lines) else None
    alone = i == 0 or lines[i - 1].blank or _is_rule(lines[i - 1]) or bool(ATX.match(lines[i - 1].text))
    if not alone or line.indent or len(line.text) > LONGEST_HEADING:
        return None
    if match := ATX.match(line.text):
        return Block("heading", line.start, line.end, len(match[1]), match[2]), i + 1
    if after is None or after.blank:
        return None
    if _is_rule(line) and i + 2 < len(lines) and lines[i + 2].text.rstrip() == line.text.rstrip():
        if _is_rule(after) or len(after.text.strip()) > len(line.text.rstrip()):
            return None
        level = _level(styles, line.text[0] * 2, atx)
        return Block("heading", line.start, lines[i + 2].end, level, after.text.strip()), i + 3
    if _is_rule(after) and not _is_rule(line) and re.search(r"\w", line.text) and not TABLE.match(line.text):
        return Block("heading", line.start, after.end, _level(styles, after.text[0], atx), line.text.strip()), i + 2
    if man and after.indent >= 3 and MAN_HEADING.match(line.text.rstrip()):
        return Block("heading", line.start, line.end, 1, line.text.strip()), i + 1
    return None


def _level(styles: list[str], style: str, atx: bool) -> int:
    if atx and style in "=-":
        return 1 + "=-".index(style)
    if style not in styles:
        styles.append(style)
    return 1 + styles.index(style)


def _group(group: list[_Line], page: _Page) -> Iterator[Block]:
    """Blocks of one run of lines without a blank line: a list may follow its introduction directly."""
    starts = (k for k, line in enumerate(group) if k and ITEM.match(line.text))
    first_item = next((k for k in starts if not _full(group[k - 1], group[k], page.width)), None)
    if (
        first_item
        and not ITEM.match(group[0].text)
        and _kind(group[:first_item], page) == "prose"
        and _kind(group[first_item:], page) == "list"
    ):
        yield Block("prose", group[0].start, group[first_item - 1].end)
        yield Block("list", group[first_item].start, group[-1].end)
    elif _kind(group, page) == "verbatim" and _defines(group, page):
        yield Block("prose", group[0].start, group[0].end)
        yield Block("prose", group[1].start, group[-1].end)
    else:
        yield Block(_kind(group, page), group[0].start, group[-1].end)


def _defines(group: list[_Line], page: _Page) -> bool:
    """A term, and below it, deeper, its wrapped explanation."""
    return len(group) > 2 and group[0].indent < group[1].indent and _kind(group[1:], page) == "prose"


def _kind(group: list[_Line], page: _Page) -> Kind:
    texts = [line.text for line in group]
    if any(VERBATIM.match(t) for t in texts) or sum(bool(TABLE.match(t)) for t in texts) * 2 > len(texts):
        return "verbatim"
    if sum(bool(COLUMNS.search(t)) for t in texts) * 3 > len(texts):
        return "verbatim"
    if ITEM.match(texts[0]):
        hanging = all(ITEM.match(line.text) or line.indent > group[0].indent for line in group[1:])
        return "list" if hanging else _wrapped(group, page)
    return _wrapped(group, page)


def _wrapped(group: list[_Line], page: _Page) -> Kind:
    if len(group) == 1:
        return "prose"
    if len({line.indent for line in group[1:]}) > 1 or abs(group[0].indent - group[1].indent) > 8:
        return "verbatim"
    full = sum(_full(a, b, page.width) for a, b in itertools.pairwise(group))
    code = sum(bool(CODE_END.search(line.text)) for line in group)
    return "prose" if full >= page.wrapped * (len(group) - 1) and code * 2 <= len(group) else "verbatim"


def _full(line: _Line, after: _Line, width: int) -> bool:
    return line.length + 1 + len(after.text.split(maxsplit=1)[0]) > FULL * width


def _width(lines: list[_Line]) -> int:
    """The width the text seems wrapped at: what nine in ten lines that go on in the next stay under."""
    lengths = sorted(a.length for a, b in itertools.pairwise(lines)
                     if not a.blank and not b.blank and a.text.count(" ") >= 4 and len(a.text) <= 160)  # fmt: skip
    return max(lengths[(len(lengths) * 9) // 10], 40) if lengths else 72


def _code_with_gaps(found: list[Block], text: str) -> Iterator[Block]:
    """Indented code goes on over blank lines: equally or deeper indented neighbours of a verbatim block join it."""
    held: Block | None = None
    for block in found:
        indent = _indent(block, text)
        if held is not None and held.kind == "verbatim" and block.kind in ("verbatim", "prose") and (
            0 < _indent(held, text) <= indent
            and (block.kind == "verbatim" or (indent > 0 and "\n" not in text[block.start : block.end]
                                              and not re.search(r"[.:!?]$", text[block.start : block.end])))
        ):  # fmt: skip
            held = dataclasses.replace(held, end=block.end)
            continue
        if held is not None:
            yield held
        held = block
    if held is not None:
        yield held


def _indent(block: Block, text: str) -> int:
    raw = text[block.start : block.end]
    return min((len(line) - len(line.lstrip()) for line in raw.split("\n") if line.strip()), default=0)


def _is_rule(line: _Line) -> bool:
    return line.indent == 0 and bool(RULE.match(line.text.rstrip()))


def _lines(text: str) -> list[_Line]:
    found, start = [], 0
    for line in text.split("\n"):
        found.append(_Line(start, line))
        start += len(line) + 1
    return found
