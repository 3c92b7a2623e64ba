#!/usr/bin/env python3
"""Makes the reference models and logits that crates/model/tests/reference.rs compares with.

    python3 make.py        # needs torch 2.11.0, transformers 5, safetensors, numpy; no network

Each folder beside this script holds a tiny random model as `transformers` saves it, and `reference.safetensors` with
`ids` (i64, [2, length]) and `logits` (fp32, [2, length, vocabulary]) of its fp32 forward with eager attention.
Weights are drawn wider than usual (deviation 0.2), so that attention and gates are far from uniform.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

HERE = Path(__file__).parent
SMALL = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)


def rope(theta, **scaling):
    return dict(rope_parameters=dict(rope_theta=theta, **(scaling or dict(rope_type="default"))))


# name: (class, configuration, length, largest shard)
CASES = {
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**SMALL | dict(tie_word_embeddings=True) | rope(10_000.0)), 24, None),
    "llama-untied": (
        LlamaForCausalLM,
        LlamaConfig(**SMALL | dict(num_key_value_heads=4, rms_norm_eps=1e-5) | rope(10_000.0)),
        24,
        None,
    ),
    "llama-llama3-rope": (
        LlamaForCausalLM,
        LlamaConfig(**SMALL | dict(head_dim=16, eos_token_id=[2, 3]) | rope(500_000.0, **LLAMA3)),
        48,
        None,
    ),
    "mistral-window": (
        MistralForCausalLM,
        MistralConfig(**SMALL | dict(num_key_value_heads=1, sliding_window=7) | rope(1_000.0)),
        40,
        None,
    ),
    "mistral-sharded": (MistralForCausalLM, MistralConfig(**SMALL | dict(sliding_window=None) | rope(10_000.0)), 24, "24KB"),
}


def main():
    for name, (model_class, config, length, shard) in CASES.items():
        torch.manual_seed(sum(name.encode()))
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        config._attn_implementation = "eager"
        model = model_class(config).float().eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms: anything but one
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        ids = torch.randint(config.vocab_size, (2, length))
        with torch.no_grad():
            logits = model(ids).logits.float()
        model.save_pretrained(folder, **(dict(max_shard_size=shard) if shard else {}))
        save_file(dict(ids=ids, logits=logits.contiguous()), folder / "reference.safetensors")
        print(name, sum(p.numel() for p in model.parameters()), "parameters, logits", float(logits.std()))


if __name__ == "__main__":
    main()
