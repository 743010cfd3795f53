"""A method's docstring as Markdown: paragraphs, formula, options, papers, errors, differences."""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
import textwrap
from collections.abc import Callable

HEADS = ("Options", "Paper", "Raises", "Differs")
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+−aehijklmnoprstuvx", strict=True))
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁱⁿᵀʲᵏ", "0123456789+−inTjk", strict=True))
MATHS = set("=≈←≥≤·Σ√|()")
SCRIPTS = "".join([*LOWERED, *RAISED])
LETTER = rf"(?![{SCRIPTS}])[^\W\d_]"
TOKENS = re.compile(
    rf"(?P<low>[{''.join(LOWERED)}]+)|(?P<high>[{''.join(RAISED)}]+)"
    rf"|\*(?P<stress>\w+)\*|`(?P<code>\w+)`"
    r"|(?P<sub>(?<=[^\W\d_])_[^\W_]{1,2}(?:<[^\W_])?(?!\w))"  # y_bt, y_b<t
    rf"|(?P<name>{LETTER}(?:(?![{SCRIPTS}])[^\W_]|_(?=[^\W_]{{3}}))+(?=\W|_|[{SCRIPTS}]|$))"  # two letters and more
    rf"|(?P<word>{LETTER}(?=-{LETTER}{{2}})|(?<=\w\w )a(?= \w\w))"  # p-tuning, the article
    rf"|(?P<sign>{LETTER}[\u0300-\u036f]*)"
)
INDEX = re.compile(r"\b[^\W\d_]_[a-z]{1,2}\b")  # n_b in a sentence
Link = Callable[[str], str]  # from a name in backquotes to Markdown


@dataclasses.dataclass(frozen=True)
class Card:
    """What a docstring says. ``body`` is Markdown, the rest is Markdown of one line; options by name."""

    summary: str
    body: str
    options: dict[str, str]
    said: dict[str, str]


def read(doc: str, link: Link = "`{}`".format) -> Card:
    """The card in a docstring; names in backquotes become what ``link`` makes of them."""
    summary, _, rest = doc.strip().partition("\n")
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", rest) if block.strip()]
    body, sections = [], []
    for block in blocks:
        (sections if re.match(rf"({'|'.join(HEADS)}):", block) else body).append(block)
    said = {head: text for block in sections for head, text in _sections(block).items()}
    options = _options(said.pop("Options", ""), link)
    return Card(
        prose(summary, link),
        "\n\n".join(formula(b) if b.startswith("    ") else prose(b, link) for b in body),
        options,
        {head: prose(text, link) for head, text in said.items()},
    )


def prose(text: str, link: Link = "`{}`".format) -> str:
    """Lines of a docstring as one line of Markdown."""
    pieces = re.split(r"``(.+?)``|`(.+?)`", " ".join(text.split()))
    made = []
    for plain, exact, name in zip(pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True):
        made.append(INDEX.sub(lambda found: typeset(found[0]), html.escape(plain, quote=False)))
        made.append(link(name) if name else f"`{exact}`" if exact else "")
    return "".join(made)


def formula(block: str) -> str:
    """An indented block, typeset: no sign is lost or moved, variables lean, what is raised or lowered is so."""
    rows = columns(textwrap.dedent(block).splitlines())
    wide = max(map(len, rows))
    lines = []
    for cells in rows:
        spans = [""] * (len(cells) - 1) + [f' colspan="{wide - len(cells) + 1}"' if len(cells) < wide else ""]
        kinds = ["" if MATHS & set(cell) else ' class="words"' for cell in cells]  # sentences may wrap
        lines.append("".join(f"<td{k}{s}>{typeset(c)}</td>" for k, s, c in zip(kinds, spans, cells, strict=True)))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="formula" tabindex="0"><table class="lines">{body}</table></div>'


def columns(lines: list[str]) -> list[list[str]]:
    """Lines cut at three spaces, and where another line begins a column: behind two spaces, or with a relation."""
    starts = {m.end() for line in lines for m in re.finditer(r" {3,}", line)}
    rows = []
    for line in lines:
        cuts = {m.end() for m in re.finditer(r"(?: {3,}|  | (?=[=≈→←≥≤]))", line)} & starts
        ends = [0, *sorted(cuts), len(line)]
        rows.append([line[i:j].strip() for i, j in itertools.pairwise(ends)])
    return rows


def typeset(text: str) -> str:
    """HTML of one piece of a formula."""
    made, at = [], 0
    for found in TOKENS.finditer(text):
        made.append(html.escape(text[at : found.start()], quote=False))
        at, token, kind = found.end(), found[0], found.lastgroup
        if kind == "low":
            made.append(f"<sub>{typeset(''.join(LOWERED[c] for c in token))}</sub>")
        elif kind == "high":
            made.append(f"<sup>{typeset(''.join(RAISED[c] for c in token))}</sup>")
        elif kind == "sub":
            made.append(f"<sub>{''.join(map(_leaning, token[1:]))}</sub>")
        elif kind == "stress":
            made.append(f"<em>{found['stress']}</em>")
        elif kind == "code":
            made.append(f"<code>{found['code']}</code>")
        else:
            made.append(_leaning(token) if kind == "sign" else token)
    return "".join([*made, html.escape(text[at:], quote=False)])


def _leaning(sign: str) -> str:
    return f"<i>{sign}</i>" if sign[0].isalpha() and sign[0] not in "ΣΠ" else html.escape(sign)


def _sections(block: str) -> dict[str, str]:
    """Head → text, the indented lines below it included as they stand."""
    found: dict[str, str] = {}
    head = ""
    for line in block.splitlines():
        if start := re.match(rf"({'|'.join(HEADS)}): *(.*)", line):
            head = start[1]
            found[head] = start[2]
        else:
            found[head] += "\n" + line
    return found


def _options(text: str, link: Link) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if start := re.match(r" {4}(\w+): (.*)", line):
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return {name: prose(told, link) for name, told in found.items()}
