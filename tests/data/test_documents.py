"""Real small files of every format, and what becomes of broken ones."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fpdf import FPDF
from pptx import Presentation

from metier.data.ingest import _files, documents
from metier.options import MetierError
from metier.store import Work

PROSE = "The valve opens when the pressure in the chamber passes the limit that the operator has set before. "


def pdf(path: Path, *pages: str, title: str = "", password: str = "", running_head: str = "") -> None:
    made = FPDF()
    for number, page in enumerate(pages, start=1):
        made.add_page()
        if running_head:
            made.set_font("helvetica", size=9)
            made.cell(0, 8, f"{running_head} {number}", new_x="LMARGIN", new_y="NEXT")
        if title and number == 1:
            made.set_font("helvetica", size=20)
            made.cell(0, 20, title, new_x="LMARGIN", new_y="NEXT")
        made.set_font("helvetica", size=11)
        made.multi_cell(0, 6, page)
    if password:
        made.set_encryption(owner_password="o", user_password=password)
    made.output(str(path))


def docx(path: Path) -> None:
    def paragraph(text: str, style: str = "") -> str:
        properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"

    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default '
        'Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
        '"/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main'
        '+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
        + paragraph("Valves", "Heading1") + paragraph(PROSE) + paragraph("Safety", "Heading2") + paragraph(PROSE * 3)
        + "</w:body></w:document>",
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_text_knows_heading_and_offset(tmp_path: Path, read) -> None:
    text = f"Guide\n*****\n\n{PROSE * 2}\n\nValves\n======\n\n{PROSE * 8}\n\nPumps\n=====\n\n{PROSE * 8}\n"
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "guide.txt").write_text(text)
    records, dropped = read(tmp_path / "in", licence="CC0-1.0", chunk=1000)
    rows = list(records)
    assert not dropped
    assert [r["heading"] for r in rows] == ["Guide", "Guide > Valves", "Guide > Pumps"]
    assert {r["title"] for r in rows} == {"Guide"} and len({r["document"] for r in rows}) == 1
    for row in rows:
        offset = row["origin"]["offset"]
        assert text[offset:].startswith(row["text"].split("\n")[0])
        assert row["origin"] == {"file": "sub/guide.txt", "page": None, "line": None, "offset": offset, "kind": "text",
                                 "licence": "CC0-1.0"}  # fmt: skip


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path: Path, read) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text(PROSE * 40)
    (tmp_path / "a" / "y.md").write_text(f"# T\n\n{PROSE}")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    first, second = read(tmp_path / "a")[0], read(tmp_path / "elsewhere" / "b")[0]
    assert first.digest == second.digest and len(set(first.column("id"))) == len(first)
    assert documents.fingerprints["read"]([str(tmp_path / "a")]) == _files.fingerprint([str(tmp_path / "elsewhere/b")])
    (tmp_path / "a" / "y.md").write_text(f"# T\n\n{PROSE}!")
    assert _files.fingerprint([str(tmp_path / "a")]) != _files.fingerprint([str(tmp_path / "elsewhere/b")])


def test_pdf_knows_its_pages_and_headings_and_loses_running_heads(tmp_path: Path, read) -> None:
    pdf(tmp_path / "m.pdf", PROSE * 12, PROSE.replace("valve", "pump") * 12, PROSE.replace("valve", "fan") * 12,
        title="Manual of Valves", running_head="Draft, page")  # fmt: skip
    rows = list(read(tmp_path / "m.pdf")[0])
    assert {r["title"] for r in rows} == {"Manual of Valves"} == {r["heading"] for r in rows}
    assert not any("Draft" in r["text"] for r in rows)
    for word, page in (("valve", 1), ("pump", 2), ("fan", 3)):
        assert next(r for r in rows if f"The {word} opens" in r["text"])["origin"]["page"] <= page
    assert next(r for r in rows if r["text"].startswith("The pump") or r["origin"]["page"] == 2)
    assert "passes the limit that the operator has set before. The" in rows[0]["text"]


def test_word_slides_and_web_pages_become_markdown(tmp_path: Path, read) -> None:
    docx(tmp_path / "a.docx")
    deck = Presentation()
    for name in ("First", "Second"):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = name, PROSE * 9
    deck.save(str(tmp_path / "b.pptx"))
    (tmp_path / "c.html").write_text(
        f"<html><head><title>My Page</title><script>steal()</script></head><body><nav>Home</nav><h1>Top</h1><p>{PROSE}"
        f'<a href="http://x.test/a_(b)">a link</a> and some_name</p><pre>a\n  b</pre><footer>me</footer></body></html>'
    )
    records, dropped = read(tmp_path)
    by_kind = {kind: [r for r in records if r["origin"]["kind"] == kind] for kind in ("docx", "pptx", "html")}
    assert not dropped
    assert [r["heading"] for r in by_kind["docx"]] == ["Valves"]  # the first section is tiny and joins the next
    assert "## Safety" in by_kind["docx"][0]["text"]
    assert [(r["heading"], r["origin"]["page"]) for r in by_kind["pptx"]] == [("First", 1), ("Second", 2)]
    page = by_kind["html"][0]
    assert page["title"] == "My Page" and page["heading"] == "Top"
    assert "a link and some_name" in page["text"] and "a\n  b" in page["text"]
    assert not any(word in page["text"] for word in ("steal", "Home", "x.test"))


def test_rows_with_text_are_documents_and_tables_of_values_one(tmp_path: Path, read) -> None:
    (tmp_path / "a.csv").write_text(f'id,note\n1,"{PROSE}, quoted"\n2,{PROSE}\n')
    (tmp_path / "b.csv").write_text("part;price\nvalve;3\npump;70\n")
    lines = [{"text": PROSE, "meta": {"x": 1}}, {"text": PROSE}, {"text": ""}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = list(read(tmp_path)[0])
    a, b, c = ([r for r in rows if r["origin"]["file"] == name] for name in ("a.csv", "b.csv", "c.jsonl"))
    assert [r["origin"]["line"] for r in a] == [2, 3] and len({r["document"] for r in a}) == 2
    assert [r["text"] for r in b] == ["part: valve, price: 3\npart: pump, price: 70"]
    assert [r["origin"]["line"] for r in c] == [1, 2] and len({r["id"] for r in c}) == 2


def test_a_broken_line_is_named(tmp_path: Path, read) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(MetierError, match=r"d\.jsonl, line 2: not valid JSON"):
        read(tmp_path)
    (tmp_path / "d.jsonl").write_text('["no object"]\n')
    with pytest.raises(MetierError, match=r"d\.jsonl, line 1: must be a JSON object, got list"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, read, encoding: str) -> None:
    text = "Der Wärter öffnet das Ventil, während die Tür geschlossen bleibt – größer als üblich. " * 4
    (tmp_path / "a.txt").write_bytes(text.replace(" – ", " - ").replace("üblich. ", "üblich.\r\n\r\n").encode(encoding))
    joined = "\n\n".join(r["text"] for r in read(tmp_path)[0])
    assert joined == "\n\n".join([text.replace(" – ", " - ").strip().split(". ")[0].rstrip(".") + "."] * 4)


def test_what_cannot_be_read_is_dropped_with_a_reason(tmp_path: Path, read) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.txt").write_text(PROSE)
    (folder / ".hidden.txt").write_text(PROSE)
    (folder / "empty.txt").write_text(" \n")
    (folder / "nul.txt").write_bytes(b"abc\0\1\2" * 100)
    (folder / "noise").write_bytes(bytes(range(128, 256)) * 50)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / "half.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<< /Type")
    (folder / "fake.docx").write_bytes(b"not a zip")
    (folder / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    (folder / "zip.docx").write_bytes(_zip({"a.txt": "x"}))
    (folder / "bad.txt.gz").write_bytes(gzip.compress(b"text")[:9])
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "cut.txt").write_bytes(b"\xff\xfea\0b")
    pdf(folder / "secret.pdf", PROSE, password="x")
    scan = FPDF()
    scan.add_page()
    scan.output(str(folder / "scan.pdf"))
    records, dropped = read(folder)
    assert {r["origin"]["file"] for r in records} == {"good.txt"}
    assert dropped.pop("half.pdf").startswith(("damaged pdf", "pdf without text"))
    assert dropped.pop("zip.docx").startswith("damaged docx")
    assert dropped == {
        "empty.txt": "empty", "nul.txt": "binary", "noise": "binary or of unknown encoding",
        "photo.jpg": "not a document format (.jpg)", "fake.docx": "damaged docx", "locked.docx": "encrypted",
        "bad.txt.gz": "damaged gzip", "cut.txt": "broken utf-16 text", "secret.pdf": "encrypted",
        "scan.pdf": "pdf without text (scanned?)",
    }  # fmt: skip


def test_nothing_to_read_names_the_source(tmp_path: Path, read) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(MetierError, match=r"no file at '.*in'"):
        read(tmp_path / "in")
    with pytest.raises(MetierError, match=r"no file at '.*nowhere'"):
        read(tmp_path / "nowhere")
    (tmp_path / "in" / "a.jpg").write_bytes(b"\xff")
    with pytest.raises(MetierError, match=r"no text could be read from .*in \(1 not a document format \(\.jpg\)\)"):
        read(tmp_path / "in")


def test_globs_named_files_and_several_folders(tmp_path: Path, read) -> None:
    for name in ("a/x.py", "a/x.txt", "b/x.txt", "b/deep/y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{PROSE}{name}")
    files = lambda *s: sorted({r["origin"]["file"] for r in read(*s)[0]})  # noqa: E731
    assert files(tmp_path / "a") == ["x.txt"]
    assert files(tmp_path / "a" / "x.py") == ["x.py"]
    assert files(f"{tmp_path}/a/*.py") == ["x.py"]
    assert files(f"{tmp_path}/**/*.txt") == ["a/x.txt", "b/deep/y.txt", "b/x.txt"]
    assert files(tmp_path / "a", tmp_path / "b") == ["a/x.txt", "b/deep/y.txt", "b/x.txt"]
    assert files(tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt") == ["x.txt", "x.txt#2"]
    assert files(tmp_path / "b", tmp_path / "b" / "x.txt") == ["b/deep/y.txt", "b/x.txt"]


def test_standard_input_and_manual_pages(tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch) -> None:
    _files.standard_input.cache_clear()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PROSE.encode())))
    assert _files.fingerprint(["-"]) and [r["origin"]["file"] for r in read("-")[0]] == ["-"]
    _files.standard_input.cache_clear()
    page = f".TH cp 1\n.SH NAME\ncp \\- copy\n.SH DESCRIPTION\n{PROSE * 6}\n"
    (tmp_path / "cp.1.gz").write_bytes(gzip.compress(page.encode()))
    (tmp_path / "alias.1").write_text(".so man1/cp.1\n")
    records, dropped = read(tmp_path)
    assert dropped == {"alias.1": "only points to another page"}
    assert {(r["title"], r["origin"]["kind"]) for r in records} == {("cp(1)", "man")}


def test_a_text_longer_than_a_window_keeps_its_offsets(tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n\n".join(f"{PROSE}Number {i}." for i in range(200))
    (tmp_path / "a.txt").write_text(text)
    monkeypatch.setattr(documents, "WINDOW", 3000)
    rows = list(read(tmp_path)[0])
    assert "\n\n".join(r["text"] for r in rows) == text
    assert all(text[r["origin"]["offset"] :].startswith(r["text"]) for r in rows)
    (tmp_path / "a.txt").write_text("x" * 20_000)
    assert "".join(r["text"] for r in read(tmp_path)[0]) == "x" * 20_000


def test_ten_thousand_rows_are_written_in_batches(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{PROSE} {i}"}) + "\n" for i in range(10_000)))
    work = Work(tmp_path / "work")
    records = documents.read([str(tmp_path / "a.jsonl")], work=work)
    assert len(records) == 10_000 and len(set(records.column("id"))) == 10_000
    assert not (tmp_path / "work" / "reading.arrow").exists()
    assert work.rows()[-1] == {"event": "read", "files": 1, "kept": 1, "dropped": {}, "documents": {"jsonl": 10_000},
                               "chunks": 10_000}  # fmt: skip


def _zip(parts: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return sink.getvalue()
