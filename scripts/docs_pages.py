"""The pages of the site that are read off the code: methods, papers, options, commands, and parts of others."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import docs_studies
import typer
from docs_method import ROOMS, SENTENCE, Taken, anchor, by_file, card, cell, link, name_of, page, place, taken

from metier import catalogue, cli, options, papers
from metier.catalogue import Method

VALUES = ("Share", "Positive", "NonNegative", "Real", "Count", "Natural", "Seed", "Duration")


def pages() -> dict[str, str]:
    """Every generated page, by its place below ``docs/``."""
    own = {"methods/index.md": _methods(), "papers.md": _papers(), "options.md": _options(), "commands.md": _commands()}
    own |= docs_studies.pages()
    return own | {place(together[0]): page(together) for together in by_file()}


def part(name: str) -> str:
    """What a hand-written page takes in with ``<!-- generated: name -->``: *which*, or the text of a ready recipe."""
    if name == "which":
        return _which()
    return f"```yaml\n{(catalogue.PACKAGE / 'recipes' / name).read_text(encoding='utf-8')}```"


def nav() -> list[Any]:
    """The methods in the navigation, room by room."""
    rooms = {title: [{m.path.stem: place(m)} for m in _of(room)] for room, (title, _) in ROOMS.items()}
    return ["methods/index.md", *({title: methods} for title, methods in rooms.items() if methods)]


def advice(method: Method) -> tuple[str, str]:
    """When to take a method and when not: the first sentence of its first paragraph, and those that begin with Not."""
    paragraph = card(method, "methods/").body.partition("\n\n")[0]
    sentences = SENTENCE.split(paragraph)
    unless = [s for s in sentences if s.startswith("Not ")]
    return " ".join(s for s in sentences[:1] if s not in unless), " ".join(unless)


def _of(room: str) -> list[Method]:
    return [m for m, *_ in by_file() if m.room == room]


def _methods() -> str:
    rooms = sum(bool(_of(room)) for room in ROOMS)
    lines = [
        "---\ntitle: All methods\n---\n\n# Methods\n",
        f"{len(by_file())} methods in {rooms} rooms. A method is a file, a room is a folder; the room fixes what its "
        "methods take and give. These pages are read off the files: docstring, signature, and what they declare.\n",
    ]
    for room, (title, purpose) in ROOMS.items():
        named = "named without the room" if room == catalogue.PLUMBING else f"`{room}`"
        lines.append(f"## {title} {{ #{anchor(room)} }}\n\n{purpose} ({named}, verb `{catalogue.ROOMS[room]}`)\n")
        rows = [f"| {link(name_of(m))} | {cell(card(m).summary)} |" for m in _of(room)]
        lines.append("\n".join(["| method | |", "|---|---|", *rows]) + "\n" if rows else "None yet.\n")
    return "\n".join(lines)


def _which() -> str:
    root, lines = catalogue.PACKAGE.parents[1], []
    asked = {root / file: row for row in papers.rows() for file in row["files"]}
    for room, (title, purpose) in ROOMS.items():
        rows = [(link(name_of(m), "methods/"), card(m, "methods/").summary, *map(cell, advice(m))) for m in _of(room)]
        if rows:
            studies = [_studies(asked.get(m.path)) for m in _of(room)]
            lines += [f"### {title}\n\n{purpose}\n", "| method | when | when not | asked here |", "|---|---|---|---|"]
            lines += [f"| {name} | **{cell(told)}** {when} | {unless} | {study} |"
                      for (name, told, when, unless), study in zip(rows, studies, strict=True)]  # fmt: skip
            lines.append("")
    return "\n".join(lines)


def _studies(row: dict[str, Any] | None) -> str:
    """The studies of a paper's claims, as links."""
    return ", ".join(docs_studies.link(name) for name in row["study"].split(", ")) if row and row["study"] else ""


def _papers() -> str:
    rows = papers.rows()
    pages = {m.path: link(name_of(m), "methods/") for m, *_ in by_file()}
    root = catalogue.PACKAGE.parents[1]
    built = [r for r in rows if r["files"]]
    lines = [
        "---\nhide: [toc]\n---\n\n# Papers\n",
        f"The papers metier grew out of. {len(built)} of {len(rows)} have something here. All of it is read off the "
        "repository: a file names its papers, and a study's run has computed its verdict.\n",
        "| | title | here | files of tests | study | verdict |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in built:
        here = ", ".join(pages.get(root / file, f"`{file}`") for file in r["files"])
        study = _studies(r)
        lines.append(
            f"| {_number(r)} | {cell(r['title'])} | {here} | {len(r['tests'])} | {study} | {r['verdict'] or ''} |"
        )
    lines += ["\n## Not here yet\n", "| | title |", "|---|---|"]
    lines += [f"| {_number(r)} | {cell(r['title'])} |" for r in rows if not r["files"]]
    return "\n".join(lines) + "\n"


def _number(row: dict[str, Any]) -> str:
    return f'<span id="paper-{row["paper"]}">{row["paper"]}</span>'


def _options() -> str:
    takers: dict[Taken, list[str]] = defaultdict(list)
    for method in catalogue.methods().values():
        for row in taken(method):
            takers[row].append(link(method.name, "methods/"))
    rows = [
        f"| `{name}` | {cell(takes)} | {cell(default)} | {', '.join(of)} |"
        for (name, takes, default), of in sorted(takers.items())
    ]
    values = [f"| `{name}` | {options.describe(getattr(options, name))} |" for name in VALUES]
    return "\n".join([
        "---\nhide: [toc]\n---\n\n# Options\n",
        "What fills an option, its default, and who takes it. A value out of range is refused before anything runs, in "
        "one sentence that names method and option. Inputs (Records, Scores, Model, Chat, Part, Task, Report) are "
        "filled by `$step` or by a step written in place, slots by a method's name or `{use: …}`.\n",
        "## Kinds of numbers\n", "| in signatures | means |", "|---|---|", *values,
        "\n## By name\n", "| option | takes | default | of |", "|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def _commands() -> str:
    group: Any = typer.main.get_command(cli.app)
    lines = [
        f"# Commands\n\n{group.help}\n\nBad input ends with one sentence and exit code 2, Ctrl-C with 130.\n",
        f"Before every command:\n\n{_arguments(group)}",
    ]
    for name, command in group.commands.items():
        words = [p for p in command.params if p.param_type_name == "argument"]
        shown = [p.name.upper() + "…" * (p.nargs == -1) for p in words]
        shown = [word if p.required else f"[{word}]" for word, p in zip(shown, words, strict=True)]
        usage = " ".join(["metier", name, *shown])
        lines.append(f"## metier {name}\n\n{command.help}\n\n```text\n{usage}\n```\n\n{_arguments(command)}")
    return "\n".join(lines)


def _arguments(command: Any) -> str:
    rows = ["| | default | |", "|---|---|---|"]
    for p in command.params:
        name = p.name.upper() if p.param_type_name == "argument" else p.opts[-1]
        default = f"`{p.default}`" if isinstance(p.default, str | int) and p.default else "–"  # of a flag: False
        rows.append(f"| `{name}` | {'needed' if p.required else default} | {cell(p.help or '')} |")
    return "\n".join(rows) + "\n"
