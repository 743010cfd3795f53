"""Manual pages from their source."""

from __future__ import annotations

from metier.text import roff

PAGE = r""".\" a comment
.TH cp 1 2023-02-05 "GNU"
.SH NAME
cp \- copy files
.SH SYNOPSIS
.B cp
.RI [ option ]
.I source
.SS Details
Wrapped
lines are one
paragraph with \fBbold\fP words,
.BR open (2),
and a backslash \e.
.PP
Options:
.TP
.BR \-r ", " \-R
copy
folders
.IP \[bu] 2
an item
.PP
.EX
int  main(void) {
    return 0;
}
.EE
.ig
not shown
..
.TS
l l.
a	b
c	d
.TE
"""


def test_a_page_becomes_headings_paragraphs_terms_and_examples() -> None:
    assert roff.looks_like(PAGE)
    assert roff.plain(PAGE) == "\n\n".join([
        "# cp(1)", "## NAME", "cp - copy files", "## SYNOPSIS", "cp [option] source", "### Details",
        "Wrapped lines are one paragraph with bold words, open(2), and a backslash \\.", "Options:",
        "-r, -R\n    copy folders", "• an item",
        "    int  main(void) {\n        return 0;\n    }", "a   b\nc   d",
    ])  # fmt: skip


def test_special_characters_and_quoted_arguments() -> None:
    assert roff.plain('.SH "SEE ALSO"\n\\(lqcaf\\[\'e]\\(rq \\[aq]x\\[aq] \\s-1SMALL\\s0 a\\ b\n') == (
        "## SEE ALSO\n\n“cafe\u0301” 'x' SMALL a b"
    )


def test_a_redirect_is_empty_and_prose_is_not_roff() -> None:
    assert roff.plain(".so man2/open.2\n") == ""
    assert not roff.looks_like("A text. With sentences.\n\n.hidden files are named so\n")
