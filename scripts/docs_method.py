"""The page of a method: its card, a recipe's line, what it takes, its laws, its file."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import docs_card
import yaml

from metier import calls, catalogue, options, papers
from metier.catalogue import Method
from metier.laws import filled
from metier.laws import run as laws
from metier.options import MetierError, Parameter
from metier.train import slots

SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z*`\[])")  # where a text is cut into sentences
# What a room is for, in the order of the table of rooms.
ROOMS = {
    "steps": ("Plumbing", "What stands between the methods of a recipe."),
    "data.ingest": ("Read", "Files become records."),
    "data.edit": ("Edit", "Records become other records by a rule, without a model."),
    "data.synthesize": ("Synthesize", "A writer makes new prompts or documents."),
    "data.answer": ("Answer", "A writer answers prompts."),
    "data.refine": ("Refine", "A model changes what is there."),
    "data.select": ("Select", "A score for each record; the steps `keep` and `order` apply it."),
    "data.mix": ("Mix", "A share for each source; the step `blend` applies it."),
    "train.objective": ("Objective", "The loss of a training step."),
    "train.term": ("Term", "What is added to the loss."),
    "train.parameters": ("Parameters", "Which weights move."),
    "train.optimizer": ("Optimizer", "How gradients become steps."),
    "train.schedule": ("Schedule", "How the learning rate changes from start to end."),
    "train.loop": ("Loop", "One training, from a model and records to a model."),
    "train.rounds": ("Rounds", "Trainings after trainings."),
    "compose.merge": ("Merge", "One model from several, tensor by tensor; the step `merge` applies it."),
    "compose.delta": ("Delta", "What training changed, taken out and put elsewhere."),
    "infer.context": ("Context", "What stands before a question."),
    "infer.decode": ("Decode", "How tokens are chosen."),
    "route": ("Route", "Which expert answers."),
    "guard": ("Guard", "What must not be answered, and how sure a reply is."),
    "evaluate": ("Evaluate", "Chats and tasks become a report."),
    "analyse": ("Analyse", "Reports become differences, intervals and verdicts."),
    "tasks": ("Tasks", "What is asked, and how it is graded."),
}
# Where the EXAMPLE of a file is for its laws, or an option is needed though it has a default.
SAMPLES: dict[tuple[str, str], Any] = {
    ("best", "measure"): "domain.bits_per_byte",
    ("export", "to"): "expert",
    ("write", "to"): "kept.jsonl",
    ("data.edit.template", "prompt"): "What is {{ name }}?",
    ("data.edit.template", "reply"): "{{ description }}",
    ("data.ingest.records", "source"): ["chats.jsonl"],
    ("data.mix.fixed", "shares"): {"own": 0.8, "general": 0.2},
    ("analyse.differences", "metric"): "domain.bits_per_byte",
    ("analyse.equal_score", "metric"): "general.bits_per_byte",
    ("analyse.equal_score", "equal"): "domain.bits_per_byte",
    ("analyse.equal_score", "start"): "untrained",
    ("train.loop.prefer", "objective"): "dpo",
}
SLOTS = {"train.objective", "train.term", "train.parameters", "train.optimizer", "train.schedule", "compose.merge"}


class Taken(NamedTuple):
    """A row of a table of options, in Markdown."""

    name: str
    takes: str
    default: str


def by_file() -> list[list[Method]]:
    """The methods of each file, the room's own verb first: a page for each."""
    found: dict[Path, list[Method]] = defaultdict(list)
    for method in catalogue.methods().values():
        found[method.path].append(method)
    return [sorted(of, key=lambda m: m.verb != catalogue.ROOMS[m.room]) for of in found.values()]


def name_of(method: Method) -> str:
    """The name of a method's file in recipes."""
    return method.path.stem if method.room == catalogue.PLUMBING else f"{method.room}.{method.path.stem}"


def place(method: Method) -> str:
    """Its page below ``docs/``."""
    return f"methods/{method.room}.{method.path.stem}.md"


def link(name: str, folder: str = "") -> str:
    """A name in backquotes, as a link to its page where it is a method's."""
    method = catalogue.methods().get(name)
    return f"[`{name}`]({folder}{place(method).removeprefix('methods/')})" if method else f"`{name}`"


def card(method: Method, folder: str = "") -> docs_card.Card:
    """Its docstring; names of methods in it are links, of those in the same room the short ones too."""

    def linked(name: str) -> str:
        found = f"{method.room}.{name}" if f"{method.room}.{name}" in catalogue.methods() else name
        own = name in {o.name for o in method.options} or found == name_of(method)
        return f"`{name}`" if own else link(found, folder).replace(f"`{found}`", f"`{name}`")

    return docs_card.read(method.doc, linked)


def page(together: list[Method]) -> str:
    """Markdown, from all methods of one file."""
    first = together[0]
    told = card(first)
    lines = [
        f"---\ntitle: {first.path.stem}\n---\n",
        f"# {name_of(first)}\n\n{told.summary}\n{{ .lead }}\n",
        " · ".join([f"[{ROOMS[first.room][0]}](index.md#{anchor(first.room)})", *_access(first)]) + "\n{ .facts }\n",
        told.body + "\n",
    ]
    for method in together:
        called = f"`{method.name}`" if len(together) > 1 else "In a recipe"
        lines.append(f"## {called}\n\n```yaml\n{snippet(method)}```\n\n{_tables(method, told.options)}")
    for head, title in (("Raises", "Errors"), ("Differs", "Differs from paper or library"), ("Paper", "Paper")):
        if head in told.said:
            lines.append(f"## {title}\n\n{_papers(told.said[head]) if head == 'Paper' else capital(told.said[head])}\n")
    lines.append(f"## Laws\n\n{_laws(first)}\n")
    code = first.path.read_text(encoding="utf-8")
    file = f"{first.module.replace('.', '/')}.py, {len(code.splitlines())} lines"
    lines.append(f'??? note "The file: {file}"\n\n' + textwrap.indent(f"```python\n{code}```\n", "    "))
    return "\n".join(lines)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def anchor(room: str) -> str:
    return room.replace(".", "-")


def parameters(method: Method) -> list[Parameter] | None:
    """What it takes; None where a library is missing that its file imports."""
    try:
        return [p for p in calls.flat(catalogue.load(method)) if p.kind != "work"]
    except MetierError:
        return None


def taken(method: Method, only_own: bool = False) -> list[Taken]:
    """Inputs and options; of a method in a slot the options alone. ``only_own``: not those of every training step."""
    found = parameters(method)
    if found is None:  # as its file writes them
        return [Taken(o.name, f"`{o.annotation}`", "needed" if o.default is None else f"`{o.default}`")
                for o in method.options if "Work" not in o.annotation]  # fmt: skip
    shared = {f.name for cls in _spread(method) for f in options.fields(cls)} if only_own else set()
    return [_row(p) for p in found if p.name not in shared and (p.option or not _fills(method))]


def snippet(method: Method) -> str:
    """The least a recipe has to say of a method: a step, or a step with the method in its slot."""
    given = {"use": method.name} | _needed(method)
    if _fills(method):
        filling: Any = given if len(given) > 1 else method.path.stem
        slot = method.room.rpartition(".")[2]
        if slot == "merge":
            step = {"merged": {"use": "merge", "base": "$base", "experts": _several("experts"), "method": filling}}
        else:
            training = {"use": "train.loop.sft", "model": "$base", "data": "$data", "epochs": 1}
            training |= _beside(method, given)
            step = {"expert": training | ({"terms": [filling]} if slot == "term" else {slot: filling})}
    else:
        made = method.returns.rpartition(".")[2].lower()
        step = {{"records": "made", "model": "made", "chat": "asked"}.get(made, made): given}
    return yaml.safe_dump(step, sort_keys=False, allow_unicode=True, width=110)


def _beside(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """What a training step has to say beside the method, by its NEEDS."""
    function = catalogue.load(method)
    known = {p.name: p for p in options.parameters(function)}
    said = {name: filled.methods(known[name], value) for name, value in given.items() if name in known}
    needs = slots.needs_of(functools.partial(function, **said))
    found = {name: needs[name] for name in ("max_grad_norm", *slots.SLOTS) if name in needs}
    found |= {"dev": "$dev"} if needs.get("dev") else {}
    return found | ({"use": "train.loop.prefer"} if needs.get("replies") == 2 else {})


def _fills(method: Method) -> bool:
    """Whether it is handed over to a slot, not a step by itself."""
    return method.room in SLOTS and method.verb == catalogue.ROOMS[method.room]


def _needed(method: Method) -> dict[str, Any]:
    """What has to be given."""
    found = parameters(method)
    if found is None:
        return {o.name: [o.name] for o in method.options if o.default is None and "Work" not in o.annotation}
    wanted = [p for p in found if p.required or (method.name, p.name) in SAMPLES]
    given = {p.name: _sample(method, p) for p in wanted if p.option or not _fills(method)}
    for name, least in (("epochs", 1), ("step_tokens", 1024)):  # a training step must be told how long it is
        if _spread(method) and name == ("step_tokens" if method.name == "plan" else "epochs"):
            given[name] = least
    return given


def _sample(method: Method, p: Parameter) -> Any:
    """As the file's EXAMPLE has it, or something of the right kind."""
    shapes = {typing.get_origin(a) for a in (p.annotation, *typing.get_args(p.annotation))}
    example = getattr(_file(method), "EXAMPLE", {}).get(p.name)
    if p.kind == "artefact":
        if dict in shapes:
            return _several(p.name)
        return [f"${p.name.removesuffix('s')}"] if list in shapes else f"${p.name}"
    if (method.name, p.name) in SAMPLES:
        return SAMPLES[method.name, p.name]
    if example is not None and not set(str(example)) & set("${"):
        return example
    if list in shapes:
        return ["handbook/"] if options.outside(p) else [p.name]
    return typing.get_args(p.annotation)[0] if typing.get_origin(p.annotation) is typing.Literal else p.name


def _several(name: str) -> dict[str, str]:
    pairs = {"chats": ("base", "expert"), "sources": ("own", "general")}
    return {n: f"${n}" for n in pairs.get(name, ("one", "other"))}


def _spread(method: Method) -> list[type]:
    return [calls.spread_class(p) for p in options.parameters(catalogue.load(method)) if p.kind == "spread"]


def _row(p: Parameter) -> Taken:
    default = "needed" if p.required else "–" if p.default is None else f"`{written(p.default)}`"
    return Taken(p.name, options.describe(p.annotation), default)


def written(value: Any) -> str:
    """A default as a recipe writes it, on one line."""
    style = '"' if "\n" in str(value) else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _tables(method: Method, told: dict[str, str]) -> str:
    found = table(taken(method, only_own=True), told)
    for cls in _spread(method) if parameters(method) is not None else []:
        shared = docs_card.read(inspect.getdoc(cls) or "", link).options
        rows = [_row(f) for f in options.fields(cls) if f.kind != "work"]
        found += f"\nAnd what every training step takes:\n\n{table(rows, shared | told)}"
    return found or "It has no options.\n"


def table(rows: list[Taken], told: dict[str, str]) -> str:
    """A table of options with what is said of each."""
    if not rows:
        return ""
    lines = ["| takes | | default | |", "|---|---|---|---|"]
    lines += [f"| `{r.name}` | {cell(r.takes)} | {cell(r.default)} | {cell(told.get(r.name, ''))} |" for r in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def _file(method: Method) -> ModuleType | None:
    return inspect.getmodule(catalogue.load(method)) if parameters(method) is not None else None


def _access(method: Method) -> Iterator[str]:
    """What the file declares beside its docstring."""
    file = _file(method)
    needs = getattr(file, "NEEDS", {})
    if "access" in needs:
        yield f"needs a model that gives {needs['access']}"
    if "chats" in needs:
        each = needs["chats"] if isinstance(needs["chats"], str) else ", ".join(sorted(set(needs["chats"].values())))
        yield f"asks for {each}"
    if hasattr(file, "GIVES"):
        yield f"leaves {file.GIVES}"
    if off := getattr(file, "OFF", None):
        yield "the bare chat at " + ", ".join(f"`{k}: {written(v)}`" for k, v in off.items())


def _laws(method: Method) -> str:
    exempt = getattr(_file(method), "EXEMPT", {})
    kept = [law.replace("_", " ") for law in laws.laws(method) if law not in exempt]
    left = "".join(f"\n\nExempt from *{law.replace('_', ' ')}*: {why}" for law, why in exempt.items())
    return f"The tests try on it: {'; '.join(kept)}.{left}"


def _papers(said: str) -> str:
    numbers = papers.numbers(f"Paper: {said}")
    titles = {row["paper"]: row["title"] for row in papers.rows()} if numbers else {}
    return "\n".join(f"[{n} · {titles[n]}](../papers.md#paper-{n})\n" for n in numbers) or said
