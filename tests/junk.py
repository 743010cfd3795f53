"""Random bad input: values, recipes, rows, bytes. All of it comes from the generator handed in."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import zipfile
from typing import Any

import yaml

from metier import catalogue
from metier.calls import flat
from metier.options import MetierError, Parameter, describe, room_of

TEXTS = [
    "", " ", "\n", "\0", "\x1b[31m", "é", "水位", "👩‍🔬", "\ud800", "\ufeff", "1e-4", "1e999", "nan", "-1", "0", "3.5",
    "true", "null", "10m", "1e9h", "m", "$", "$a", "$base", "$base.x", "$notes.train", "$ghost", "$$", "$.", "{}",
    "[]",
    "median", "keep", "model", "lora", "data.ingest.documents", "train.loop.pretrain", "..", "/", "~", "~nobody/x",
    "%s%d",
    "a" * 3000, "{0}", "../../etc/passwd", "*", "[", "**", "-", "user", "assistant", "system", "use", "a.b.c",
    "2020-13-01",     "0x1F", "1_000",
]  # fmt: skip
STEPS = ["base", "notes", "kept", "scored", "expert", "out", "a", "b", "train", "$x", "a.b", "", " ", "é", "use"]
ASKED = [{"role": "user", "content": "hi"}]
SAID = [{"role": "assistant", "content": "hello"}]
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
SHAPES: list[dict[str, Any]] = [
    {"text": "The river rises."},
    {"messages": [*ASKED, *SAID]},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    {"instruction": "Say hi.", "input": "now", "output": "hi", "system": "be brief", "history": [["a", "b"]]},
    {"prompt": "Say hi.", "completion": " hi"},
    {"prompt": "Say hi.", "chosen": "hi", "rejected": "no"},
    {"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    {"prompt": ASKED, "completion": SAID, "label": True},
    {"input": {"messages": ASKED}, "preferred_output": SAID, "non_preferred_output": [SAID[0] | {"content": "b"}]},
    {"messages": [*ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "tool_call_id": "c", "content": "4"}, SAID[0] | {"weight": 0}]},
]  # fmt: skip
BOMB = "abcdefghijklmnopqrst"


def value(draw: random.Random, depth: int = 3) -> Any:
    """Any value YAML or JSON may hold."""
    pick = draw.random()
    if depth and pick < 0.12:
        return [value(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    if depth and pick < 0.26:
        keys = ["use", "a", "lr", "data", "role", "content", text(draw)]
        return {draw.choice(keys): value(draw, depth - 1) for _ in range(draw.randint(0, 4))}
    if pick < 0.55:
        return text(draw)
    return draw.choice([
        None, True, False, 0, 1, -1, 2, 10**30, 2**63, -(2**63), 0.0, 0.5, 1.0, -0.0, 1e300, 1e-300,
        float("nan"), float("inf"), float("-inf"), draw.random(), draw.randint(-100, 100)])  # fmt: skip


def text(draw: random.Random) -> str:
    if draw.random() < 0.75:
        return draw.choice(TEXTS)
    return "".join(
        chr(draw.choice([draw.randint(0, 127), draw.randint(0, 0x10FFFF)])) for _ in range(draw.randint(0, 12))
    )


def damaged(draw: random.Random, whole: Any) -> Any:
    """A value with something in it replaced, dropped or added."""
    if isinstance(whole, dict) and whole and draw.random() < 0.85:
        key = draw.choice(list(whole))
        fate = draw.random()
        if fate < 0.12:
            return {k: v for k, v in whole.items() if k != key}
        if fate < 0.2:
            return whole | {text(draw): value(draw, 2)}
        return whole | {key: damaged(draw, whole[key])}
    if isinstance(whole, list) and whole and draw.random() < 0.85:
        at = draw.randrange(len(whole))
        fate = draw.random()
        if fate < 0.15:
            return whole[:at] + whole[at + 1 :]
        if fate < 0.25:
            return whole[: at + 1] + whole[at:]
        return [*whole[:at], damaged(draw, whole[at]), *whole[at + 1 :]]
    return value(draw, 2)


def recipe(draw: random.Random, ready: str) -> str:
    """YAML: a ready recipe damaged as text or as data, steps that fit the catalogue in part, or anything."""
    pick = draw.random()
    if pick < 0.2:
        return mangled(draw, ready)
    if pick < 0.45:
        return yaml_text(damaged(draw, yaml.safe_load(ready)))
    if pick < 0.9:
        return yaml_text(steps(draw))
    if pick < 0.97:
        return yaml_text(value(draw, 4))
    if pick < 0.98:
        deep = draw.choice([5, 200, 20000])
        return draw.choice(["[" * deep, "a: " + "{a: " * deep, "- " * deep, "a: " + "[" * deep + "]" * deep])
    if pick < 0.985:
        return "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise(BOMB))
    if pick < 0.99:
        return draw.choice(["a: &a [*a]", "a: &a {use: keep, data: *a}", "&a {*a : 1}", "a: &x {<<: *x}"])
    return "".join(draw.choice("{}[]:,-&*!|>'\"%@`#? \n\tab$.=<1") for _ in range(draw.randint(0, 60)))


def steps(draw: random.Random) -> dict[str, Any]:
    """Steps that fit the catalogue but for a thing or two."""
    methods = list(catalogue.methods().values())
    found: dict[str, Any] = {}
    for _ in range(draw.randint(1, 6)):
        found[draw.choice(STEPS)] = step(draw, draw.choice(methods), list(found) if draw.random() < 0.9 else STEPS)
    return found


def step(draw: random.Random, method: catalogue.Method, above: list[str], deferred: bool = False) -> Any:
    given: dict[str, Any] = {"use": method.name if draw.random() < 0.97 else text(draw)}
    try:
        parameters = [p for p in flat(catalogue.load(method)) if p.kind != "work" and (p.option or not deferred)]
    except MetierError:  # an extra that is not installed
        return given
    for parameter in parameters:
        if draw.random() < (0.96 if parameter.required else 0.25):
            given[parameter.name] = _filling(draw, parameter, above)
    return given | ({text(draw): value(draw)} if draw.random() < 0.04 else {})


def _filling(draw: random.Random, parameter: Parameter, above: list[str]) -> Any:
    if draw.random() < 0.04:
        return value(draw, 2)
    methods = list(catalogue.methods().values())
    if parameter.kind == "method":
        fitting = [m for m in methods if m.room == room_of(parameter.annotation)]
        return step(draw, draw.choice(fitting if fitting and draw.random() < 0.9 else methods), above, deferred=True)
    if parameter.kind == "artefact":
        words = describe(parameter.annotation)
        one = f"${draw.choice(above)}" if above else "$"
        if draw.random() < 0.2:
            one = step(draw, draw.choice([m for m in methods if m.returns in words] or methods), above)
        one = f"{one}.train" if isinstance(one, str) and draw.random() < 0.1 else one
        return [one] if "list" in words else {"a": one} if "map" in words else one
    return near(draw, parameter)


def yaml_text(whole: Any) -> str:
    try:
        return yaml.safe_dump(whole, allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, UnicodeError):
        return repr(whole)


def study(draw: random.Random) -> str:
    """YAML of a study: arms, grid, seeds and claims over a small recipe, damaged."""
    small = {
        "notes": {"use": "data.ingest.documents", "source": ["."]},
        "base": {"use": "model", "path": "smollm2"},
        "task": {"use": "tasks.documents", "data": "$notes"},
        "expert": {"use": "train.loop.pretrain", "model": "$base", "data": "$notes", "steps": 2},
        "report": {"use": "evaluate.compare", "chats": {"base": "$base", "expert": "$expert"}, "tasks": ["$task"]},
    }
    whole = {
        "title": "Longer", "paper": 8, "recipe": small, "arms": {"plain": {}, "longer": {"expert.steps": 4}},
        "grid": {"expert.seed": [3, 4]}, "seeds": [0, 1], "reports": ["report"], "chat": "expert",
        "claims": [{"says": "It forgets less", "minus": "plain", "metric": "task.bits_per_byte", "holds": "< 0"}],
        "pareto": {"x": "task.bits_per_byte", "y": "cost.seconds"},
    }  # fmt: skip
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        whole = damaged(draw, whole)
    written = yaml_text(whole)
    return mangled(draw, written) if draw.random() < 0.1 else written


def mangled(draw: random.Random, whole: str) -> str:
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(whole) + 1)
        piece = draw.choice(
            [text(draw), whole[at : at + draw.randint(0, 80)], "\t", "  ", ":", "{", "}", "*x", "&x", "<<: "]
        )
        whole = whole[:at] + piece + whole[at + draw.choice([0, 0, 1, 3, 20]) :]
    return whole


def changed(draw: random.Random, data: bytes) -> bytes:
    """Bytes cut off, flipped, doubled, swapped for others, or put into another encoding."""
    fate = draw.random()
    if fate < 0.3:
        return data[: draw.randrange(len(data) + 1)]
    if fate < 0.65:
        found = bytearray(data)
        for _ in range(draw.randint(1, 12)):
            if found:
                found[draw.randrange(len(found))] = draw.randrange(256)
        return bytes(found)
    if fate < 0.8:
        at = draw.randrange(len(data) + 1)
        return data[:at] + draw.randbytes(draw.randint(0, 40)) + data[at:]
    if fate < 0.9:
        encoding = draw.choice(
            ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift_jis", "utf-8-sig", "cp037"]
        )
        return data.decode("utf-8", "replace").encode(encoding, "replace")
    return draw.choice([b"", b"\0" * 50, b"\xff\xfe", b"\x1f\x8b" + data[:30], b"%PDF-1.7" + data[:90],
                        b"PK\x03\x04" + data[:60], draw.randbytes(draw.randint(0, 400))])  # fmt: skip


def table(draw: random.Random) -> tuple[str, bytes]:
    """A name and the bytes of a jsonl, json or csv file, whole or damaged."""
    rows = [
        damaged(draw, draw.choice(SHAPES)) if draw.random() < 0.4 else draw.choice(SHAPES)
        for _ in range(draw.randint(0, 6))
    ]
    kind = draw.choice(["jsonl", "json", "csv", "tsv", "ndjson"])
    if kind in ("csv", "tsv"):
        cells = [
            [str(draw.choice([cell, text(draw)])) for cell in row.values()] for row in rows if isinstance(row, dict)
        ]
        heads = [",".join(map(str, row)) for row in rows if isinstance(row, dict)]
        lines = [draw.choice(heads or ["text"]), *(",".join(f'"{c}"' for c in row) for row in cells)]
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    elif kind == "json":
        data = json.dumps(rows if draw.random() < 0.7 else {"data": rows}).encode()
    else:
        data = "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows).encode(
            "utf-8", "surrogatepass"
        )
    return f"rows.{kind}", changed(draw, data) if draw.random() < 0.5 else data


def document(draw: random.Random, pdf: bytes) -> tuple[str, bytes]:
    """A name and the bytes of a document, mostly damaged."""
    kind = draw.choice(["txt", "md", "html", "docx", "pptx", "pdf", "1", "rst", "bin", "txt.gz", ""])
    prose = "# Valves\n\n" + "The valve opens. " * draw.randint(1, 60) + "\n\n- one\n- two\n\n```\ncode\n```\n"
    whole = {
        "html": f"<html><title>V</title><body><main><h1>Valves</h1><p>{prose}<table><tr><td>1</table></main>",
        "1": f".TH VALVE 1\n.SH NAME\nvalve \\- {prose}\n.B bold\n.PP\n",
    }.get(kind, prose).encode()
    if kind in ("docx", "pptx"):
        whole = packed(kind)
    elif kind == "pdf":
        whole = pdf
    elif kind == "txt.gz":
        whole = gzip.compress(whole, mtime=0)
    return f"paper.{kind}".rstrip("."), changed(draw, whole) if draw.random() < 0.9 else whole


def packed(kind: str) -> bytes:
    """The smallest Word or PowerPoint file that a reader opens."""
    inside = {
        "docx": {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
            "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            '<Relationship Id="r" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
            "word/document.xml": '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
            "<w:p><w:r><w:t>The valve opens and the river rises.</w:t></w:r></w:p></w:body></w:document>",
        },
        "pptx": {"[Content_Types].xml": "<Types/>", "ppt/presentation.xml": "<p/>"},
    }[kind]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in inside.items():
            archive.writestr(name, body)
    return stream.getvalue()


def near(draw: random.Random, parameter: Parameter) -> Any:
    """A value that a parameter may just take, or just not."""
    words = describe(parameter.annotation)
    numbers = [
        0,
        1,
        3,
        -1,
        0.0,
        1.0,
        1.0000001,
        -0.1,
        2**63 - 1,
        2**63,
        "0",
        "1",
        "0.5",
        "1e-4",
        "7 ",
        "1_0",
        True,
        False,
    ]
    if not parameter.required and draw.random() < 0.3:
        return parameter.default
    return draw.choice(
        [*numbers, words, words.split("'")[1] if words.count("'") > 1 else ".", ["."], [0.5], {"a": 0.5}, None]
    )
