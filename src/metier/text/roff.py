"""Manual pages in roff source → plain text with ``#`` headings. Enough for `man` macros; not a typesetter."""

from __future__ import annotations

import re

FONTS = frozenset({"B", "I", "R", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB"})
SPECIAL = {
    "aq": "'", "dq": '"', "bu": "•", "em": "—", "en": "–", "ha": "^", "ti": "~", "rs": "\\", "cq": "’", "oq": "‘",
    "lq": "“", "rq": "”", "co": "©", "mu": "×", "+-": "±", "<=": "≤", ">=": "≥", "->": "→", "<-": "←", "ga": "`",
    "at": "@", "sh": "#", "mi": "−", "hy": "-", "mc": "µ", "de": "°", "sc": "§", "if": "∞", "14": "¼", "12": "½",
    "lB": "[", "rB": "]", "lC": "{", "rC": "}", "ul": "_", "sl": "/", "pc": "·", "va": "↕", "Fo": "«", "Fc": "»",
    "ss": "ß", "AE": "Æ", "ae": "æ", "OE": "Œ", "oe": "œ", "/O": "Ø", "/o": "ø", "!=": "≠", "==": "≡", "pl": "+",
}  # fmt: skip
ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327", "o": "\u030a"}
CONTROL = re.compile(r"[.'][ \t]*([A-Za-z]{1,12}|\\\"|\\})?[ \t]*(.*)$")
START = re.compile(r"(?:^|\n)(?:[.'][ \t]*(?:TH|SH|so|Dd)\b|'\\\"|\.\\\")")


def looks_like(text: str) -> bool:
    """Whether a text is roff source: a macro of manual pages among its first lines."""
    return START.search(text[:4000]) is not None


def plain(source: str) -> str:
    """The page as text: sections are ``#`` and ``##`` headings, paragraphs one line, examples and tables keep theirs.

    Sources that only point to another page (``.so``) give an empty text.
    """
    paragraphs: list[str] = []
    filled: list[str] = []
    kept: list[str] | None = None  # the lines of an example or table, which are not filled
    state = ""  # "term" after .TP, a heading's marks after a bare .SH or .SS
    skipping = False  # inside .ig or .de
    mark = ""

    def close() -> None:
        nonlocal filled, mark
        if text := " ".join(" ".join(filled).split()):
            paragraphs.append(f"{mark}{text}")
            mark = ""
        filled = []

    def add(text: str) -> None:
        nonlocal state, mark
        if state.startswith("#"):
            paragraphs.append(f"{state} {text.strip()}")
        elif state == "term":
            mark += f"{text.strip()}\n    "
        elif kept is not None:
            kept.append(text.rstrip())
        elif text.startswith((" ", "\t")) or not text.strip():
            close()
            filled.append(text)
        else:
            filled.append(text)
        state = ""

    for line in source.replace("\\\n", "").split("\n"):
        match = CONTROL.match(line)
        if match is None:
            if not skipping:
                add(_table_row(_inline(line)) if kept is not None else _inline(line))
            continue
        name, rest = match[1] or "", re.sub(r"[ \t]*\\\".*$", "", match[2])
        if skipping:
            skipping = not line.startswith("..")
        elif name in ("ig", "de", "am"):
            skipping = True
        elif name == "TH":
            words = _arguments(rest)
            paragraphs.append(f"# {_inline('('.join(words[:2]))})" if len(words) > 1 else f"# {_inline(rest)}")
        elif name in ("SH", "SS"):
            close()
            mark, state = "", "##" if name == "SH" else "###"
            if rest:
                add(_inline(" ".join(_arguments(rest))))
        elif name in FONTS:
            parts = [_inline(a) for a in _arguments(rest)]
            add(("" if len(name) == 2 and name not in ("SM", "SB") else " ").join(parts))
        elif name in ("TP", "TQ", "HP", "IP", "PP", "P", "LP", "RS", "RE", "br", "sp", "ti", "SY", "YS"):
            if kept is None:
                close()
            elif name in ("PP", "sp", "IP"):
                kept.append("")
            if name in ("TP", "TQ"):
                state = "term"
            elif name == "IP" and (words := _arguments(rest)):
                term = _inline(words[0])
                mark = f"{term} " if len(term) < 3 else f"{term}\n    "
        elif name in ("nf", "EX", "TS"):
            close()
            kept = []
        elif name in ("fi", "EE", "TE") and kept is not None:
            indent = "" if name == "TE" else "    "
            lines = kept[next((i + 1 for i, k in enumerate(kept) if k.endswith(".")), 0) :] if name == "TE" else kept
            if body := "\n".join(indent + k if k else "" for k in lines).strip("\n"):
                paragraphs.append(body)
            kept = None
        elif name == "UR" and rest:
            add(_inline(rest))
    close()
    if kept:
        paragraphs.append("\n".join(kept).strip("\n"))
    return "\n\n".join(p for p in paragraphs if p.strip())


def _arguments(rest: str) -> list[str]:
    return [a[1:].rstrip('"').replace('""', '"') if a[0] == '"' else a
            for a in re.findall(r'"(?:[^"]|"")*"?|(?:\\.|[^\s"])(?:\\.|\S)*', rest)]  # fmt: skip


def _inline(text: str) -> str:
    text = re.sub(r"\\\".*$", "", text)
    text = re.sub(r"\\f(?:\[\w*\]|\(..|.)|\\s(?:[-+]?\d|\[[-+]?\d+\])", "", text)  # fonts and sizes
    text = re.sub(r"\\[&|^:%,/)!{}cdup]|\\[hvwlLDZb]'[^']*'", "", text)  # spacing and drawing
    text = re.sub(r"\\\[([a-zA-Z])([`'^:~,o])\]", lambda m: m[1] + ACCENTS[m[2]], text)
    text = re.sub(r"\\\*?\[([`'^:~,o])([a-zA-Z])\]|\\\(([`'^:~,o])([a-zA-Z])",
                  lambda m: (m[2] or m[4]) + ACCENTS[m[1] or m[3]], text)  # fmt: skip
    text = re.sub(r"\\\*?\[u([0-9A-F]{4,5})\]", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\\*?(?:\[([^\]]+)\]|\((..))", lambda m: SPECIAL.get(m[1] or m[2], ""), text)
    text = re.sub(r"\\[*n](?:\[[^\]]*\]|\(..|.)", "", text)
    return re.sub(r"\\(.)", lambda m: {"e": "\\", "0": " ", "~": " ", "t": "\t"}.get(m[1], m[1]), text)


def _table_row(line: str) -> str:
    return "" if line in ("_", "=", "T}") else line.replace("T{", "").replace("T}", "").replace("\t", "   ")
