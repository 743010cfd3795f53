"""Bytes → text, or a reason why not."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib

import charset_normalizer

MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
GUESSED_FROM = 1 << 16
CONTROL = {c: None for c in range(32) if chr(c) not in "\t\n\f\r"}


class Unreadable(Exception):
    """A file cannot become text; the message is the reason the log gives."""


def text(data: bytes) -> str:
    """UTF-8, UTF-16 or UTF-32 with a mark, else what charset-normalizer takes it for; line ends become ``\\n``."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _clean(_decode(data, encoding))
    if b"\0" in data[:8192]:
        raise Unreadable("binary")
    try:
        return _clean(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    guess = charset_normalizer.from_bytes(data[:GUESSED_FROM]).best()
    if guess is None:
        raise Unreadable("binary or of unknown encoding")
    decoded = _clean(_decode(data, guess.encoding))
    if sum(c.isprintable() or c in "\n\t\f" for c in decoded[:GUESSED_FROM]) < 0.98 * len(decoded[:GUESSED_FROM]):
        raise Unreadable("binary or of unknown encoding")
    return decoded


def gunzip(data: bytes, largest: int) -> bytes:
    """Raises Unreadable when it is no gzip, or unpacks to more than ``largest`` bytes."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            plain = stream.read(largest + 1)
    except (OSError, EOFError, zlib.error):
        raise Unreadable("damaged gzip") from None
    if len(plain) > largest:
        raise Unreadable(f"unpacks to more than {largest >> 20} MiB")
    return plain


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise Unreadable(f"broken {encoding} text") from None


def _clean(decoded: str) -> str:
    decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
    return decoded.translate(CONTROL) if any(chr(c) in decoded for c in CONTROL) else decoded
