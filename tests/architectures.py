"""Small networks of transformers' architectures, whose tensors have other names and other layouts."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": GROUPED, "qwen2": GROUPED, "qwen3": GROUPED | {"head_dim": 12}, "mistral": GROUPED,
    "gemma2": GROUPED | {"head_dim": 8}, "olmo2": GROUPED, "phi": GROUPED, "phi3": GROUPED,
    "opt": {k: v for k, v in SMALL.items() if k != "intermediate_size"} | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 64},
    "gpt_neox": SMALL,
    "bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 3, "n_head": 4},
}  # fmt: skip
NORMS = {"gemma2": 4, "phi": 1}


def network(kind):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIGS[kind])).eval()
    with torch.no_grad():
        for p in made.parameters():  # biases and norms start as zeros and ones, which would tell nothing
            if p.dim() == 1:
                p.add_(0.1 * torch.randn(p.shape))
    return made
