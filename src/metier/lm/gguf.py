"""A dense Llama folder as one GGUF file that llama.cpp and Ollama run.

Tensors are read, turned and written one at a time, so memory stays at the largest of them. llama.cpp rotates
neighbouring pairs of a head's features where transformers rotates its two halves, hence the order of Q and K rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from metier.options import MetierError

FILE_TYPES = {"f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}
KINDS = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
QUANTIZATION_VERSION = 2
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(model_folder: Path, out: Path, *, dtype: Literal["f32", "f16", "q8_0"] = "f16") -> Path:
    """Writes ``out`` and returns it: norms in float32, matrices in ``dtype``, tokenizer and chat template inside.

    The default keeps what was measured: SmolLM2-135M in f16 gives transformers' greedy tokens under llama.cpp. With
    q8_0, half as large, llama.cpp rounds activations to 8 bits as well, and answers of so small a model change.
    Rows that q8_0 cannot hold (not a multiple of 32 long) are float16. Same folder, same bytes. Raises MetierError
    for another architecture, an adapter, a tensor too many or too few, or a tokenizer llama.cpp has no name for.
    """
    config = _config(model_folder)
    files = _files(model_folder)
    places = dict(_places(config))
    _check(model_folder, places, files, config)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(out.stem)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    _add_sizes(writer, config)
    _add_tokenizer(writer, model_folder, config.vocab_size)
    unfinished = out.with_name(out.name + ".tmp")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    _write_file(writer, unfinished, places, files, config, dtype)
    os.replace(unfinished, out)
    return out


def _config(folder: Path) -> Any:
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists() and not path.exists():
        raise MetierError(f"gguf: '{folder}' is an adapter; merge it into its base first")
    if not path.exists():
        raise MetierError(f"gguf: '{folder}' has no config.json, so it is no transformers folder")
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if kind != "llama":
        raise MetierError(f"gguf: can write models of type 'llama' (Llama, SmolLM2), not '{kind}'")
    config = AutoConfig.from_pretrained(folder)
    if config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
        raise MetierError("gguf: llama.cpp's Llama has no biases and the activation 'silu'; this model differs")
    if config.rope_parameters["rope_type"] not in ("default", "linear", "llama3"):
        raise MetierError(f"gguf: cannot write rope type '{config.rope_parameters['rope_type']}'")
    return config


def _files(folder: Path) -> dict[str, Path]:
    """Tensor name → the file that holds it."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    path = folder / "model.safetensors"
    if not path.exists():
        raise MetierError(f"gguf: '{folder}' has no model.safetensors")
    with safe_open(path, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), path)


def _places(config: Any) -> Iterator[tuple[str, str]]:
    """GGUF name → transformers name, in the order of the file."""
    yield "token_embd.weight", "model.embed_tokens.weight"
    for i in range(config.num_hidden_layers):
        for ours, theirs in BLOCK.items():
            yield f"blk.{i}.{ours}.weight", f"model.layers.{i}.{theirs}.weight"
    yield "output_norm.weight", "model.norm.weight"
    if not config.tie_word_embeddings:  # llama.cpp takes token_embd where there is no output
        yield "output.weight", "lm_head.weight"


def _check(folder: Path, places: dict[str, str], files: dict[str, Path], config: Any) -> None:
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    spare = sorted(n for n in files.keys() - set(places.values()) - tied if not n.endswith("rotary_emb.inv_freq"))
    missing = sorted(set(places.values()) - files.keys())
    if missing or spare:
        told = f"lacks the tensor {missing[0]}" if missing else f"has the tensor {spare[0]}, which a Llama has not"
        raise MetierError(f"gguf: '{folder}' {told}")


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")  # llama.cpp's word for byte-level BPE
    writer.add_tokenizer_pre(pretokenizer(spec))
    words, kinds = _vocabulary(spec, size)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(framed[0] != bare[0])
    writer.add_add_eos_token(framed[-1] != bare[-1])
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def pretokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer.json cuts text into words. Raises MetierError when it has none."""
    before, model = spec.get("pre_tokenizer") or {}, spec["model"]
    parts = before.get("pretokenizers", [before])
    kinds = [p.get("type") for p in parts]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and spec.get("normalizer") is None
    if plain and kinds[-1] == "ByteLevel" and not parts[-1]["add_prefix_space"]:
        by_regex, ignores = parts[-1].get("use_regex", True), bool(model.get("ignore_merges"))
        if kinds == ["ByteLevel"] and by_regex and not ignores:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and by_regex and not ignores:
            return "smollm"
        llama3 = kinds == ["Split", "ByteLevel"] and parts[0]["pattern"] == {"Regex": LLAMA3_SPLIT}
        if llama3 and not by_regex and ignores:
            return "llama-bpe"
    told = "gpt-2, smollm and llama-bpe"
    raise MetierError(f"gguf: llama.cpp cuts text as {told} do; this tokenizer ({model['type']}) is none of them")


def _vocabulary(spec: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every row of the embedding gets a word; rows beyond the tokenizer's last are marked unused."""
    words = [f"[PAD{i}]" for i in range(size)]
    kinds = [int(TokenType.UNUSED)] * size
    entries = [(id, word, TokenType.NORMAL) for word, id in spec["model"]["vocab"].items()]
    for token in spec["added_tokens"]:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        entries.append((token["id"], token["content"], kind))
    for id, word, kind in entries:
        if id >= size:
            raise MetierError(f"gguf: the tokenizer has token {id}, the embedding only {size} rows")
        words[id], kinds[id] = word, int(kind)
    return words, kinds


def _write_file(
    writer: gguf.GGUFWriter, path: Path, places: dict[str, str], files: dict[str, Path], config: Any, dtype: str
) -> None:
    rope = _rope_factors(config)
    if rope is not None:
        writer.add_tensor_info("rope_freqs.weight", rope.shape, rope.dtype, rope.nbytes)
    for name, source in places.items():
        with safe_open(files[source], framework="pt") as tensors:
            shape = tensors.get_slice(source).get_shape()
        kind = _kind(shape, dtype)
        block, bytes_a_block = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) // block * bytes_a_block, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if rope is not None:
        writer.write_tensor_data(rope)
    for source in places.values():
        with safe_open(files[source], framework="pt") as tensors:
            values = tensors.get_tensor(source).to(torch.float32).numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(source.split(".")[-2])
        values = _rows_in_pairs(values, heads) if heads else values
        writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(values), _kind(list(values.shape), dtype)))
    writer.close()


def _kind(shape: list[int], dtype: str) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    whole = shape[-1] % gguf.GGML_QUANT_SIZES[KINDS[dtype]][0] == 0
    return KINDS[dtype] if whole else GGMLQuantizationType.F16


def _rows_in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Within each head, row i of the first half is followed by row i of the second.  [heads * dim, width]"""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def _rope_factors(config: Any) -> np.ndarray | None:
    """What llama.cpp divides each rotation frequency by, or None where they are the plain ones.  [dim / 2]"""
    scaling = config.rope_parameters
    if scaling["rope_type"] == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    plain = scaling["rope_theta"] ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
    return (plain / scaled.float()).numpy()
