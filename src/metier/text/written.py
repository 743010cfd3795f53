"""Numbers and untrusted texts as people read them: durations, sizes, counts, Markdown cells."""

from __future__ import annotations

import re
from typing import Any


def seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(value: float) -> str:
    """Bytes in binary units, as memory is counted."""
    for unit, digits in (("bytes", 0), ("KiB", 0), ("MiB", 1)):
        if value < 1024:
            return f"{value:.{digits}f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} million"
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def cell(value: Any) -> str:
    """Text that cannot break out of a Markdown table cell or become markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", re.sub(r"\s+", " ", str(value)))


def clean(text: str) -> str:
    """Without what no UTF-8 file may hold: lone surrogates, and control characters but line ends and tabs."""
    return re.sub(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)


def told(value: Any) -> str:
    """A list of texts as one text; anything else as it prints."""
    return "\n\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def looks_like_code(text: str) -> bool:
    """Indented lines and drawn tables lose their sense in a proportional type."""
    return bool(re.search(r"(?:^|\n)(?: {3,}|\t|\+[-=]{2}|\|.*\|\s*(?:\n|$))", str(text)))
