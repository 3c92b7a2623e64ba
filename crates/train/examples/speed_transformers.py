"""The peer of `speed.rs`: the same shapes, batches and arguments in transformers.

    python speed_transformers.py [bf16|fp32] [STEPS] [7m|8b/LAYERS] [ROWSxLENGTH]

Weights are fp32 masters, as ours: bf16 is autocast over them, as in transformers' Trainer. Attention is torch's scaled
dot product, the optimizer torch's fused AdamW, and gradients are clipped to 1.
"""

import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SMALL = {
    "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
}
LLAMA_3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "rope_theta": 500000.0,
}


def main():
    arguments = dict(enumerate(sys.argv))
    bf16 = arguments.get(1) != "fp32"
    steps = int(arguments.get(2, 40))
    shape = arguments.get(3, "7m")
    size = arguments.get(4, "4x256")
    rows, length = map(int, size.split("x"))
    sizes = SMALL if shape == "7m" else {**LLAMA_3_8B, "num_hidden_layers": int(shape.removeprefix("8b/"))}

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(1)
    with device:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False, attn_implementation="sdpa"))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=True)
    tokens = torch.randint(sizes["vocab_size"], (rows, length), device=device)
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        seconds.append(time.perf_counter() - start)
        if step % 10 == 0:
            print(f"step {step}: loss {value:.4f}", flush=True)
    seconds.sort()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"transformers {shape} {size}: {count} parameters, {'bf16' if bf16 else 'fp32'}, {device}, "
        f"{torch.get_num_threads()} threads: median {rows * length / seconds[steps // 2]:.0f} tokens/s, "
        f"best {rows * length / seconds[0]:.0f} tokens/s"
    )
    if device.type == "cuda":
        print(f"peak {torch.cuda.max_memory_allocated()}, reserved {torch.cuda.memory_reserved()}")


if __name__ == "__main__":
    main()
