"""What a step's code digest depends on: each thing that changes what a method does, and nothing else."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

import metier
from metier import catalogue, recipe, runner
from metier.artefacts import Report
from metier.store import Store

METHOD = '"""Mine."""\nimport bs4\nfrom . import _beside\nfrom metier.rooms_own import inside\n'
METHOD += "\n\ndef f():\n    return _beside\n"


def digest(path: Path) -> str:
    for cached in (catalogue._tree, catalogue._code, catalogue._imports, catalogue._data, catalogue._libraries,
                   catalogue._version, catalogue._packages):  # fmt: skip
        cached.cache_clear()  # a process reads each file once
    return catalogue.code_digest([path])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method that imports a file beside it, a package, and beautifulsoup; data lie in ``files``."""
    folder = tmp_path / "rooms_own"
    (folder / "inside").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "mine.py").write_text(METHOD, encoding="utf-8")
    (folder / "_beside.py").write_text("VALUE = 1\n", encoding="utf-8")
    (folder / "inside" / "__init__.py").write_text("VALUE = 1\n", encoding="utf-8")
    (folder / "files" / "words.txt").write_text("one", encoding="utf-8")
    monkeypatch.setattr(metier, "__path__", [*metier.__path__, str(tmp_path)])
    return folder


@pytest.mark.parametrize("file", ["mine.py", "_beside.py", "inside/__init__.py", "files/words.txt"])
def test_every_file_a_method_reads_counts(own: Path, file: str) -> None:
    before = digest(own / "mine.py")
    with (own / file).open("a", encoding="utf-8") as stream:
        stream.write("\nMORE = 2\n")
    assert digest(own / "mine.py") != before


def test_comments_docstrings_and_strangers_do_not(own: Path) -> None:
    before = digest(own / "mine.py")
    (own / "mine.py").write_text(METHOD.replace('"""Mine."""', '"""Yours."""') + "# a remark\n", encoding="utf-8")
    (own / "stranger.py").write_text("VALUE = 3\n", encoding="utf-8")
    assert digest(own / "mine.py") == before


@pytest.mark.parametrize(("package", "counts"), [("beautifulsoup4", True), ("peft", False)])
def test_versions_of_the_libraries_it_imports_count(
    own: Path, monkeypatch: pytest.MonkeyPatch, package: str, counts: bool
) -> None:
    before, real = digest(own / "mine.py"), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else real(name))
    assert (digest(own / "mine.py") != before) == counts
    monkeypatch.undo()
    catalogue._version.cache_clear()


def test_training_depends_on_torch_and_reading_documents_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = catalogue.methods()
    assert {"torch", "transformers"} <= libraries(methods["train.loop.sft"].path)
    assert "torch" not in libraries(methods["data.ingest.documents"].path)
    assert {"pdfminer", "markitdown", "bs4"} <= libraries(methods["data.ingest.documents"].path)


def libraries(path: Path) -> set[str]:
    reached: set[Path] = set()
    queue = [path]
    while queue:
        path = queue.pop()
        if path not in reached:
            reached.add(path)
            queue += catalogue._imports(path)
    return {name for path in reached for name in catalogue._libraries(path)}


def test_the_code_that_grades_a_task_and_that_opens_a_model_is_in_the_key(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task and the model stay the same by content; what is asked of them does not."""
    rows = "".join(f'{{"text": "river {i} rises", "label": "{"ab"[i % 2]}"}}\n' for i in range(12))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    text = (
        f"base: {{use: model, path: '{toy.path}'}}\n"
        f"rows: {{use: data.ingest.records, source: ['{tmp_path}/rows.jsonl']}}\n"
        "task: {use: tasks.classification, data: $rows}\n"
        "asked: {use: evaluate.compare, chats: {base: $base}, tasks: [$task], max_tokens: 2}\n"
    )
    calls = recipe.check(recipe.parse(text))
    store, real = Store(tmp_path / "home"), catalogue.code_digest

    def fresh() -> list[str]:
        return [name for name, step in runner.run(calls, store).items() if not step.cached]

    assert fresh() == ["base", "rows", "task", "asked"]
    assert fresh() == []
    for changed, again in (
        (calls[2].method.path, ["task", "asked"]),
        (catalogue.PACKAGE / "lm" / "load.py", ["asked"]),
    ):
        monkeypatch.setattr(catalogue, "code_digest", lambda paths, c=changed: real(paths) + "x" * (c in paths))
        assert fresh() == again
        monkeypatch.setattr(catalogue, "code_digest", real)
    assert isinstance(runner.run(calls, store)["asked"].open(), Report)
