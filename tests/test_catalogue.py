from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metier import catalogue
from metier.options import MetierError


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from metier import catalogue; assert len(catalogue.methods()) > 10;"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'numpy', 'pyarrow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_method_is_found_by_its_full_name_and_in_a_slot_by_its_short_one() -> None:
    full = catalogue.find("train.parameters.lora")
    assert catalogue.find("lora", room="train.parameters") == full
    assert full.verb == "prepare" and full.module == "metier.train.parameters.lora"
    assert catalogue.find("keep").module == "metier.steps.keep"


@pytest.mark.parametrize(
    ("name", "room", "sentence"),
    [
        ("train.parameters.lola", None, "has no method 'train.parameters.lola'; did you mean 'train.parameters.lora'?"),
        ("cosin", "train.schedule", "has no method 'cosin'; did you mean 'cosine'?"),
        ("train.optimizer.adamw", "train.schedule", "needs a method of train.schedule, got 'train.optimizer.adamw'"),
    ],
)
def test_a_wrong_name_gets_the_nearest(name: str, room: str | None, sentence: str) -> None:
    with pytest.raises(MetierError) as error:
        catalogue.find(name, "x", room)
    assert str(error.value) == f"x: {sentence}"


def digest(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return catalogue.code_digest([path])


def test_comments_and_docstrings_do_not_count_and_code_does(tmp_path: Path) -> None:
    first = digest(tmp_path, "a.py", '"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n')
    assert digest(tmp_path, "b.py", "# why\ndef f(x):\n\n    return x + 1  # because\n") == first
    assert digest(tmp_path, "c.py", "def f(x):\n    return x + 2\n") != first


def test_a_helper_that_is_imported_counts(tmp_path: Path) -> None:
    alone = digest(tmp_path, "d.py", "import json\n")
    path = tmp_path / "e.py"
    path.write_text("import json\nfrom metier import disk\n", encoding="utf-8")
    reached = catalogue.code_digest([path])
    assert reached != alone
    path = tmp_path / "f.py"
    path.write_text("import json\nfrom metier import disk\nfrom metier.disk import write_json\n", encoding="utf-8")
    assert catalogue.code_digest([path]) != reached  # another import is other code, whatever it reaches
