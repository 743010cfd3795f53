"""The whole road in small on the real model: documents in, specialist and report out, twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metier.store import home

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["assert", "async", "attribute-access", "augassign", "break", "calls", "del", "else", "exceptions", "for",
             "global", "if", "import", "lambda", "pass", "raise", "return", "try", "while", "yield"]  # fmt: skip
SMALL = {
    "domain.bytes": 2000, "domain.cloze": 6, "domain.questions": 2, "general.choice": 12, "general.prose": 3,
    "general.arithmetic": 6, "general.grammar": 6, "general.forms": 2, "plan.rates": "[1e-3]", "plan.trial": 1,
    "plan.least": 2, "plan.step_tokens": 256, "plan.dev_tokens": 256, "expert.step_tokens": 256,
    "expert.dev_tokens": 256, "control.step_tokens": 256, "domain_after.max_tokens": 12, "asked_before.max_tokens": 12,
    "general_before.max_tokens": 12, "general_after.max_tokens": 12, "reader_before.max_tokens": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt") / "docs"
    folder.mkdir()
    for name in DOCUMENTS:
        shutil.copy(ROOT / "examples" / "python_reference" / f"{name}.txt", folder)
    return folder


def adapt(documents: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    sets = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    begin = [sys.executable, "-m", "metier", "adapt", str(documents), "--out", str(out)]
    command = [*begin, "--budget", "1s", *sets, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def specialist(documents: Path, smollm2: object) -> Path:
    out = documents.parent / "expert"
    done = adapt(documents, out)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout and "bits" in done.stdout
    return out


@pytest.mark.timeout(900)
def test_the_folder_holds_what_is_promised_and_no_pickle(specialist: Path) -> None:
    names = {p.relative_to(specialist).as_posix() for p in specialist.rglob("*") if p.is_file()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "report.html", "report.json", "README.md", "metier.json",
    }  # fmt: skip


def test_the_report_keeps_its_shape_and_its_sums(specialist: Path) -> None:
    facts = json.loads((specialist / "report.json").read_text(encoding="utf-8"))
    assert set(facts) >= {"metier", "model", "measures", "data", "cost", "steps", "headline"}
    for measure in facts["measures"]:
        assert set(measure) >= {"name", "kind", "unit", "better", "before", "after", "control", "change", "low", "high",
                                "n", "chance", "margin", "verdict"}  # fmt: skip
        assert measure["change"] == pytest.approx(measure["after"] - measure["before"], abs=1e-9)
        assert measure["low"] is None or measure["low"] <= measure["change"] <= measure["high"]
    reading = facts["measures"][0]
    assert reading["kind"] == "domain" and 0.3 < reading["before"] < 3 and reading["control"] is not None
    data = facts["data"]
    assert data["read"] == data["kept"] + sum(data["dropped"].values()) and data["overlap"]["test"] < 0.02
    assert set(facts["cost"]) >= {"seconds", "peak_memory_bytes", "tokens_trained", "parameters_trained"}
    assert 0 < facts["cost"]["tokens_trained"] <= 4 * 256
    assert str(Path.home()) not in json.dumps(facts), "the report names a path of this machine"


def test_the_specialist_loads_without_metier(specialist: Path) -> None:
    code = (
        "import sys; from peft import AutoPeftModelForCausalLM; from transformers import AutoTokenizer;"
        "m = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "ids = t('The try statement', return_tensors='pt')['input_ids'];"
        "print(m(input_ids=ids).logits.shape[-1], 'metier' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(specialist)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["49152", "False"]


def test_a_second_run_computes_nothing_and_says_the_same(documents: Path, specialist: Path) -> None:
    before = json.loads((specialist / "report.json").read_text(encoding="utf-8"))
    done = adapt(documents, specialist)
    assert done.returncode == 0, done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not line.strip().startswith(("reader", "out", "needs "))
    ]
    assert lines and all("kept from before" in line for line in lines), done.stderr
    after = json.loads((specialist / "report.json").read_text(encoding="utf-8"))
    for facts in (before, after):
        for step in facts["steps"]:
            step.pop("cached")
        facts["cost"].pop("peak_memory_bytes")
    assert after == before


def test_a_merged_folder_is_dense_and_agrees(documents: Path, specialist: Path) -> None:
    out = specialist.with_name("dense")
    done = adapt(documents, out, "--merge", "--gguf")
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert facts["merge"]["token_agreement"] == 1.0 and facts["merge"]["max_logit_change"] < 1e-2
    assert (out / "model.safetensors").exists() and (out / "adapter" / "adapter_model.safetensors").exists()
    assert (out / facts["gguf"]).read_bytes()[:4] == b"GGUF"


def test_a_folder_of_somebody_else_is_left_alone(documents: Path, specialist: Path) -> None:
    (documents.parent / "mine").mkdir()
    (documents.parent / "mine" / "thesis.txt").write_text("years of work")
    done = adapt(documents, documents.parent / "mine")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("was not written by metier; choose another place with --out")
    assert (documents.parent / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_store_lies_where_it_was_told() -> None:
    assert (home() / "steps").is_dir()
