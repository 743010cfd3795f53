"""Makes texts, prompts or conversations out of a record's columns by templates.

For tables of free columns (read with ``shape: free``): a question and an answer, a name and a description, a row of
measured values. Templates are jinja2 in its sandbox: a column is ``{{ name }}`` or ``{{ record['a name'] }}``, a null
is empty, conditions and loops are allowed, chance is not, and nothing outside the record can be reached.
``{{ plain }}`` is what a conversation, a prompt with its completion or a preference says without a chat template: what
was asked and, on the next line, the (best) reply. Not for wording by a model: that is `data.refine` and
`data.synthesize`.

    text                          → text               prompt, reply            → messages
    prompt alone                  → prompt             prompt, reply, system    → messages with a system turn

A record that has a form already gets the new one in its place; all other columns stay.

Options:
    text: template of a text to learn; not together with the others.
    prompt: template of what the user says.
    reply: template of what the assistant answers.
    system: template of what stands before, as the system's words.
    blank: records whose text, prompt or reply comes out empty are *refused* or *dropped*.
Raises: MetierError for a template that is wrong, naming its line; for a column there is not; and when no record is
    left.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from metier import shapes
from metier.artefacts import Records, Row
from metier.options import MetierError, tally
from metier.store import Work
from metier.text.plain import plain

NAME = "data.edit.template"
EXAMPLE = {"text": "Record {{ id }}"}


def edit(
    data: Records,
    *,
    text: str | None = None,
    prompt: str | None = None,
    reply: str | None = None,
    system: str | None = None,
    blank: Literal["refuse", "drop"] = "refuse",
    work: Work,
) -> Records:
    given = {"text": text, "prompt": prompt, "reply": reply, "system": system}
    templates = {name: _compiled(name, words, data.columns) for name, words in given.items() if words is not None}
    if ("text" in templates) == ("prompt" in templates) or ("text" in templates and len(templates) > 1):
        raise MetierError(f"{NAME}: needs either 'text', or 'prompt' with 'reply' and 'system' where they are wanted")
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    for row in data:
        known = {"record": row, "plain": plain(row), **row}
        said = {name: _rendered(name, template, known) for name, template in templates.items()}
        empty = next((name for name in ("text", "prompt", "reply") if name in said and not said[name].strip()), None)
        if empty and blank == "refuse":
            raise MetierError(f"{NAME}: record {row['id']!r}: its '{empty}' comes out empty")
        if empty:
            dropped[f"{empty} is empty"] += 1
            work.log(event="dropped", id=row["id"], reason=f"{empty} is empty")
            continue
        rest = {name: value for name, value in row.items() if name not in shapes.FORM}
        rows.append(rest | form(said) | _origin(row))
    work.log(event="kept", read=len(data), kept=len(rows), dropped=dict(dropped))
    if not rows:
        raise MetierError(f"{NAME}: nothing is left of {len(data)} records ({tally(dropped)})")
    return Records.from_rows(rows)


def form(said: dict[str, str]) -> Row:
    """The record form of what the templates said."""
    if "text" in said:
        return {"text": said["text"]}
    before = [{"role": "system", "content": said["system"]}] if said.get("system", "").strip() else []
    turns = [*before, {"role": "user", "content": said["prompt"]}]
    if "reply" in said:
        return {"messages": [*turns, {"role": "assistant", "content": said["reply"]}]}
    return {"prompt": turns}


def _compiled(name: str, words: str, columns: list[str]) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: "" if value is None else value,
    )
    environment.globals = {"range": environment.globals["range"]}
    del environment.filters["random"]
    try:
        known = {"range", "record", "plain", *columns}
        if wanted := jinja2.meta.find_undeclared_variables(environment.parse(words)) - known:
            raise MetierError(f"{NAME}: '{name}': records have no column '{min(wanted)}'; they have: "
                              f"{', '.join(columns)}")  # fmt: skip
        return environment.from_string(words)
    except jinja2.TemplateSyntaxError as error:
        raise MetierError(f"{NAME}: '{name}', line {error.lineno}: {error.message}") from None


def _rendered(name: str, template: jinja2.Template, known: Row) -> str:
    try:
        return template.render(known)
    except Exception as error:  # what a template can do wrong with its values has no class of its own
        raise MetierError(f"{NAME}: '{name}' fails at record {known['id']!r}: {error}") from None


def _origin(row: Row) -> Row:
    """The shape it was read in holds no longer."""
    origin = row.get("origin")
    return {"origin": origin | {"shape": None, "given": None}} if origin and "shape" in origin else {}
