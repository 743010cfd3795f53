"""The written file is read back with the gguf library and, where it is installed, run by llama.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf as library
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from metier.lm import gguf
from metier.options import MetierError

TEXTS = [
    "The bridge was built in 1984, and 12 men   built it.",
    "def f(x):\n    return x + 10  \n",
    "Straße, café, 東京 and 🙂.",
]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
ROPES = {
    "plain": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip


def model(folder: Path, *, tied: bool = True, rope: str = "plain", spare_rows: int = 0) -> Path:
    """A random Llama of 2 blocks with grouped heads, and a byte-level tokenizer that cuts digits one by one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = DIGITS, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(TEXTS * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare_rows, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
        rope_parameters=ROPES[rope], tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("gguf") / "model")


def read(path: Path) -> tuple[dict, dict[str, np.ndarray], dict[str, str]]:
    reader = library.GGUFReader(path)
    tensors = {t.name: library.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors, kinds


# q8_0: half a step of a block's largest value / 127, and the rounding of that step to float16.
@pytest.mark.parametrize(("dtype", "error"), [("f32", 0.0), ("f16", 2**-11), ("q8_0", 0.5 / 127 + 2**-11)])
def test_every_tensor_is_there_within_its_type(folder: Path, tmp_path: Path, dtype: str, error: float) -> None:
    _, tensors, kinds = read(gguf.write(folder, tmp_path / "m.gguf", dtype=dtype))
    own = {k: v.numpy() for k, v in AutoModelForCausalLM.from_pretrained(folder).state_dict().items()}
    own.pop("lm_head.weight")
    assert len(tensors) == len(own) == 2 * 9 + 2
    for ours, theirs in gguf._places(LlamaConfig.from_pretrained(folder)):
        expected = own[theirs]
        if theirs.endswith(("q_proj.weight", "k_proj.weight")):
            heads, dim = (4 if "q_proj" in theirs else 2), 16
            order = [h * dim + half * dim // 2 + i for h in range(heads) for i in range(dim // 2) for half in (0, 1)]
            expected = expected[order]
        assert np.abs(tensors[ours] - expected).max() <= error * np.abs(expected).max(), ours
        assert kinds[ours] == ("F32" if expected.ndim == 1 else dtype.upper())


def test_sizes_and_tokenizer_are_written(folder: Path, tmp_path: Path) -> None:
    fields, _, _ = read(gguf.write(folder, tmp_path / "m.gguf", dtype="q8_0"))
    spec = json.loads((folder / "tokenizer.json").read_text())
    expected = {
        "general.architecture": "llama", "general.name": "m", "general.file_type": 7, "llama.block_count": 2,
        "llama.context_length": 256, "llama.embedding_length": 64, "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    assert {name: fields[name] for name in expected} == expected
    words = dict(enumerate(fields["tokenizer.ggml.tokens"]))
    assert {word: id for id, word in words.items()} == spec["model"]["vocab"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in spec["model"]["merges"]]
    assert fields["tokenizer.ggml.token_type"][:3] == [3, 3, 1]
    assert len(words) == fields["llama.vocab_size"]


def test_untied_output_sharded_weights_and_spare_rows(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", tied=False, spare_rows=5)
    network = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").exists()
    fields, tensors, _ = read(gguf.write(folder, tmp_path / "m.gguf", dtype="f32"))
    assert np.array_equal(tensors["output.weight"], network.lm_head.weight.detach().numpy())
    assert fields["tokenizer.ggml.token_type"][-5:] == [5] * 5
    assert len(set(fields["tokenizer.ggml.tokens"])) == network.config.vocab_size


def test_same_folder_same_bytes_and_no_leftover(folder: Path, tmp_path: Path) -> None:
    first = gguf.write(folder, tmp_path / "a" / "m.gguf").read_bytes()
    assert gguf.write(folder, tmp_path / "b" / "m.gguf").read_bytes() == first
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["m.gguf"]


def altered(folder: Path, to: Path, **config: object) -> Path:
    shutil.copytree(folder, to)
    own = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(own))
    return to


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "qwen2"}, "can write models of type 'llama' .* not 'qwen2'"),
        ({"attention_bias": True}, "no biases"),
        ({"num_hidden_layers": 3}, r"lacks the tensor model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"has the tensor model\.layers\.1\."),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope type 'yarn'"),
    ],
)
def test_what_it_cannot_write_is_refused(folder: Path, tmp_path: Path, config: dict, sentence: str) -> None:
    with pytest.raises(MetierError, match=sentence):
        gguf.write(altered(folder, tmp_path / "other", **config), tmp_path / "m.gguf")
    assert not list(tmp_path.glob("m.gguf*"))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(MetierError, match="is an adapter; merge it"):
        gguf.write(tmp_path, tmp_path / "m.gguf")


def test_the_cut_into_words_is_named_or_refused() -> None:
    def spec(pre: pre_tokenizers.PreTokenizer, **bpe: object) -> dict:
        inner = Tokenizer(models.BPE(**bpe))
        inner.pre_tokenizer = pre
        return json.loads(inner.to_str())

    assert gguf.pretokenizer(spec(DIGITS)) == "smollm"
    assert gguf.pretokenizer(spec(pre_tokenizers.ByteLevel(add_prefix_space=False))) == "gpt-2"
    for unknown in (
        spec(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        spec(pre_tokenizers.Metaspace()),
        spec(pre_tokenizers.ByteLevel(add_prefix_space=False), byte_fallback=True),
    ):
        with pytest.raises(MetierError, match="none of them"):
            gguf.pretokenizer(unknown)


@pytest.mark.parametrize(("rope", "tied"), [("plain", True), ("llama3", False)])
def test_llama_cpp_gives_the_same_tokens_and_logits(tmp_path: Path, rope: str, tied: bool) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason='pip install "metier[gguf]" brings it')
    folder = model(tmp_path / "model", rope=rope, tied=tied)
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    path = gguf.write(folder, tmp_path / "m.gguf", dtype="f32")
    exact = llama_cpp.GGML_TYPE_F32  # else the cache rounds keys and values to float16
    runner = llama_cpp.Llama(
        str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=exact, type_v=exact
    )  # fmt: skip
    for text in (*TEXTS, "  7\n 8 12,345", " ".join(TEXTS) * 2):
        ids = tokenizer(text)["input_ids"]
        assert runner.tokenize(text.encode(), add_bos=False, special=False) == ids, text
        runner.reset()
        runner.eval(ids)
        with torch.no_grad():
            expected = network(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(runner.scores[: len(ids)] - expected).max() < 1e-4 * np.abs(expected).max(), text
    runner.close()
