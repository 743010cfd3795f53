"""Word, PowerPoint and web pages → markdown through markitdown's converters; no plugin, no model, no network."""

from __future__ import annotations

import io
import re
import warnings

from bs4 import BeautifulSoup
from markitdown import StreamInfo
from markitdown.converters import DocxConverter, HtmlConverter, PptxConverter

from metier.data.ingest._decode import Unreadable

AROUND = ["nav", "footer", "aside", "script", "style", "noscript", "template", "form", "button", "svg"]
IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
LINK = re.compile(r"(?<!\\)\[([^\[\]]*)\]\((?:[^()\s]|\([^()]*\))*(?:\s+\"[^\"]*\")?\)")
SLIDE = re.compile(r"<!-- Slide number: \d+ -->\n?")


def docx(data: bytes) -> str:
    return _plain(_convert(DocxConverter(), data, ".docx"))


def pptx(data: bytes) -> tuple[str, list[int]]:
    """The text, and where each slide begins in it (characters)."""
    slides = [_plain(slide) for slide in SLIDE.split(_convert(PptxConverter(), data, ".pptx"))[1:]]
    text, starts = "", []
    for slide in slides:
        text += "\n\n" if text and slide else ""
        starts.append(len(text))
        text += slide
    return text, starts


def html(data: bytes) -> tuple[str, str]:
    """The text of the main part without navigation and scripts, and the page's title."""
    soup = BeautifulSoup(data, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(AROUND):
        tag.decompose()
    mains = soup.find_all("main") or soup.find_all("article")
    main = mains[0] if len(mains) == 1 and len(mains[0].get_text()) > 200 else soup.body or soup
    return _plain(_convert(HtmlConverter(), str(main).encode(), ".html")), title


def _convert(converter: DocxConverter | HtmlConverter | PptxConverter, data: bytes, suffix: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = converter.convert(io.BytesIO(data), StreamInfo(extension=suffix, charset="utf-8"),
                                      escape_underscores=False, escape_asterisks=False, escape_misc=False)  # fmt: skip
    except Exception as error:  # damaged files surface as whatever the parser behind the converter raises
        raise Unreadable(f"damaged {suffix[1:]} ({type(error).__name__})") from None
    return found.markdown


def _plain(markdown: str) -> str:
    markdown = LINK.sub(r"\1", IMAGE.sub(r"\1", markdown)).replace("\xa0", " ")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", markdown)).strip()
