"""The pages of the studies that have run, from what their runs have written; and the list of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs_method import SENTENCE, cell

from metier import catalogue
from metier.study import page

STUDIES = catalogue.PACKAGE.parents[1] / "studies"
SHOWN = "forgetting"  # the one at the top of the list
FILES = ("plot.svg", "index.html", "results.json")


def pages() -> dict[str, str]:
    """The list, and a page with its picture and its numbers for each study, by place below ``docs/``."""
    found = {"studies.md": _list()}
    for folder in _ran():
        found[f"studies/{folder.name}.md"] = _page(folder)
        found |= {f"studies/{folder.name}/{file}": (folder / file).read_text(encoding="utf-8")
                  for file in FILES if (folder / file).exists()}  # fmt: skip
    return found


def nav() -> list[Any]:
    return ["studies.md", *({_facts(folder)["title"]: f"studies/{folder.name}.md"} for folder in _ran())]


def link(study: str) -> str:
    """To the page of ``studies/name``, where it has run."""
    folder = STUDIES.parent / study
    return f"[{folder.name}](studies/{folder.name}.md)" if (folder / "results.json").exists() else f"`{folder.name}`"


def _ran() -> list[Path]:
    return [path.parent for path in sorted(STUDIES.glob("*/results.json"))]


def _facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def _page(folder: Path) -> str:
    """The study's README, whose files lie a folder deeper here."""
    text = (folder / "README.md").read_text(encoding="utf-8").removeprefix(page.MARK).lstrip()
    for file in FILES:
        text = text.replace(f"]({file})", f"]({folder.name}/{file})")
    return f"---\nhide: [toc]\n---\n\n{text}"


def _list() -> str:
    lines = [
        "---\nhide: [toc]\n---\n\n# Studies\n",
        "What the papers claim, asked of small models on this repository's own data. A study is a recipe with arms, "
        "seeds and claims, which were written before it ran; where a first look changed its design, it says so. "
        "Verdicts are read off 95 % intervals, and a claim that does not show at this size is reported as such. It "
        "says little about large models; the same file, with a "
        "model of yours in its first line, asks there.\n",
    ]
    if (STUDIES / SHOWN / "plot.svg").exists():
        title = _facts(STUDIES / SHOWN)["title"]
        lines.append(f"[![{title}](studies/{SHOWN}/plot.svg)](studies/{SHOWN}.md)\n\n[{title}](studies/{SHOWN}.md)\n")
    lines += ["| study | asks | claims that hold | paper | time |", "|---|---|---|---|---|"]
    for folder in _ran():
        facts = _facts(folder)
        verdicts = [claim["verdict"] for claim in facts["claims"]]
        part = verdicts.count("holds in part")
        holds = f"{verdicts.count('holds')} of {len(verdicts)}" + (f", {part} in part" if part else "")
        papers = ", ".join(f"[{n}](papers.md#paper-{n})" for n in facts["paper"])
        title, time = (
            f"[{cell(facts['title'])}](studies/{folder.name}.md)",
            f"{facts['cost']['seconds'] / 60:.0f}&nbsp;min",
        )
        lines.append(f"| {title} | {cell(SENTENCE.split(facts['about'])[0])} | {holds} | {papers} | {time} |")
    return "\n".join(lines) + "\n"
