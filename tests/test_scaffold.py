"""A method written from the template keeps the laws once its maths is filled in, in every room."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metier import catalogue, scaffold
from metier.laws import run
from metier.laws.case import Bench
from metier.options import MetierError

MATHS = {
    "steps": "return data.take(range(max(1, round(len(data) * share))))",
    "data.ingest": 'return file.read_text(encoding="utf-8")',
    "data.edit": "return text.upper() if strength else text",
    "data.refine": "return text.upper() if strength else text",
    "data.synthesize": "return prompt",
    "data.answer": "return prompt",
    "data.select": "return strength * len(text)",
    "data.mix": "return strength * sum(map(len, texts)) + 1",
    "train.objective": "return (-losses).exp() ** strength",
    "train.term": "return (weight**2).sum()",
    "train.parameters": "return gradient * (gradient.abs() >= gradient.abs().quantile(1 - density))",
    "train.optimizer": "return gradient",
    "train.schedule": "return floor + (1 - floor) * (1 - done) ** 2",
    "train.loop": "return data",
    "train.rounds": "return data",
    "compose.merge": "return changes.mean(0)",
    "compose.delta": "return expert - base",
    "infer.context": "return reply",
    "infer.decode": "return reply",
    "guard": "return reply",
    "route": 'return experts[len(question) % len(experts)]',
    "evaluate": "return -nats / tokens",
    "analyse": "return confidence * sum(values) / len(values)",
    "tasks": 'return row["text"], [" open", " closed"], int(row["label"] == "closed")',
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("room", catalogue.ROOMS)
def test_only_the_maths_is_missing(
    room: str, tmp_path: Path, bench: Bench, own_methods: Callable[[Path], None]
) -> None:
    method, test = scaffold.write(f"{room}.mine_{room.rpartition('.')[2]}", tmp_path / "own")
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--line-length=120", "--select=E,F,I,UP",
         "--config=lint.isort.known-first-party=['metier']", method, test],
        capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    text = method.read_text(encoding="utf-8")
    assert text.count("raise NotImplementedError  # the maths") == 1
    method.write_text(text.replace("raise NotImplementedError  # the maths", MATHS[room]), encoding="utf-8")
    own_methods(tmp_path / "own")
    found = next(m for m in catalogue.methods().values() if m.path == method)
    for law in run.laws(found):
        verdict = run.keep(found, law, bench, tmp_path / law)
        assert verdict.holds or law == "another_setting_is_another_digest", f"{law}: {verdict.why}"


def test_without_its_maths_a_method_breaks_its_laws_and_says_why(
    tmp_path: Path, bench: Bench, own_methods: Callable[[Path], None]
) -> None:
    scaffold.write("train.objective.mine_unfinished", tmp_path / "own")
    own_methods(tmp_path / "own")
    law = "cutting_a_step_changes_nothing"
    found = run.keep(catalogue.find("train.objective.mine_unfinished"), law, bench, tmp_path / law)
    assert found == run.Verdict(law, False, "its maths is not filled in")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train.objectives.mine", "new: has no room 'train.objectives'; did you mean 'train.objective'?"),
        ("train.objective.My Loss", "new: a method's name is a small word such as 'mine' or 'my_loss', got 'My Loss'"),
        ("train.objective.cross_entropy", f"new: 'train.objective.cross_entropy' exists: {catalogue.PACKAGE}"),
    ],
)
def test_a_bad_name_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(MetierError) as error:
        scaffold.write(name, tmp_path)
    assert str(error.value).startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_a_method_from_outside_is_listed_checked_and_run(tmp_path: Path) -> None:
    """A whole recipe with it, from the command line; its code is part of the step's key."""
    scaffold.write("data.select.mine", tmp_path / "own")
    file = tmp_path / "own" / "data" / "select" / "mine.py"
    file.write_text(file.read_text().replace("raise NotImplementedError  # the maths", "return float(len(text))"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text("text: data.ingest.general_text\nbest: {use: data.select.mine, data: $text}\n")

    def metier(*arguments: str) -> str:
        code = "from metier.__main__ import main; main()"
        home = {"METIER_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code, "--methods", str(tmp_path / "own"), *arguments],
                              capture_output=True, text=True, env=home)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "data.select.mine" in metier("list", "data.select")
    first = metier("run", str(recipe), "--json")
    assert metier("run", str(recipe), "--json").count('"cached": true') == 2
    file.write_text(file.read_text().replace("float(len(text))", "float(-len(text))"))
    changed = metier("run", str(recipe), "--json")
    assert changed.count('"cached": true') == 1 and changed != first


def test_a_folder_without_rooms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetierError, match="holds no folder of a room"):
        catalogue.add(tmp_path)
