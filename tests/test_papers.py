from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier import papers
from metier.options import MetierError


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def row(root: Path, number: int) -> dict:
    return next(r for r in papers.rows(root) if r["paper"] == number)


def test_every_paper_has_a_row_with_the_agreed_keys() -> None:
    rows = papers.rows()
    assert [r["paper"] for r in rows] == list(range(1, 120))
    assert {tuple(r) for r in rows} == {("paper", "title", "files", "tests", "study", "verdict")}
    assert len({r["title"] for r in rows}) == 119


def test_every_file_and_test_of_a_row_exists() -> None:
    root = papers.PACKAGE.parents[1]
    for r in papers.rows():
        assert all((root / path).is_file() for path in r["files"] + r["tests"])


def test_files_tests_study_and_verdict_are_found(tmp_path: Path) -> None:
    root = tmp_path
    write(root, {
        "src/metier/train/objective/talr.py": '"""Reweights.\n\nPaper: 8 (TALR)\n"""\nimport nothing_that_exists\n',
        "src/metier/recipes/adapt.yaml": "# Paper: 30\nbase: {use: model}\n",
        "tests/methods/train.objective/test_talr.py": "",
        "tests/methods/merge/test_talr.py": "",
        "studies/talr/study.yaml": "paper: 8\n",
        "studies/talr/results.json": json.dumps({"verdict": "holds in part"}),
        "studies/other/study.yaml": "paper: [8, 107]\n",
    })  # fmt: skip
    assert row(root, 8) == {
        "paper": 8,
        "title": row(root, 8)["title"],
        "files": ["src/metier/train/objective/talr.py"],
        "tests": ["tests/methods/train.objective/test_talr.py"],
        "study": "studies/other, studies/talr",
        "verdict": "holds in part",
    }
    assert row(root, 30)["files"] == ["src/metier/recipes/adapt.yaml"]
    assert (row(root, 107)["study"], row(root, 107)["verdict"]) == ("studies/other", None)
    assert [row(root, 1)[key] for key in ("files", "tests", "study", "verdict")] == [[], [], None, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paper: 8 (TALR)", [8]),
        ("One line.\n\nPaper: 8, 107\nOptions:", [8, 107]),
        ("    Paper: 8 (one)\n    Paper: 9 (two)", [8, 9]),
        ("# Paper: 30", [30]),
        ("Paper: Hu et al., 2022, 'LoRA'", []),
        ("Paper: 2106.09685", []),
        ("Paper: 2022 is the year of this one", []),
        ("as said in Paper: 8", []),
    ],
)
def test_only_a_line_of_numbers_counts(text: str, expected: list[int]) -> None:
    assert papers.numbers(text) == expected


def test_an_unknown_number_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"src/metier/talr.py": '"""Paper: 999"""\n'})
    with pytest.raises(MetierError, match=r"metier/talr\.py: there is no paper 999"):
        papers.rows(tmp_path)
