# SPDX-License-Identifier: Apache-2.0
"""Softmax attention: the attention modules of Hugging Face transformers."""

import torch
from oracle import Case, into, out_of, same, shaped
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention


class Causal(torch.nn.Module):
    """Gives a module of transformers the positions and the mask that their models make."""

    def __init__(self, attention, config, window=0, reset=()):
        super().__init__()
        self.attention, self.window, self.reset = attention, window, reset
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, x):
        t = torch.arange(x.shape[1])
        start = sum((t >= r).long() for r in self.reset) if self.reset else torch.zeros_like(t)
        seen = (t[:, None] >= t) & (start[:, None] == start)
        if self.window:
            seen &= t[:, None] - t < self.window
        mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, -torch.inf)
        # their buffer of frequencies is float32 however the module is cast: made again in float64
        base = self.rotary.config.rope_parameters["rope_theta"]
        d = self.attention.head_dim
        self.rotary.inv_freq = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        places = self.rotary(x, t[None])
        return self.attention(x, position_embeddings=places, attention_mask=mask[None, None])[0]


def attention(name, shape, heads, kv_heads, window=0, norm=False, reset=(), base=10000.0):
    e = shape[2]
    config = (Qwen3Config if norm else LlamaConfig)(
        hidden_size=e, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=e // heads,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": base},
        attn_implementation="eager")
    module = Causal((Qwen3Attention if norm else LlamaAttention)(config, 0), config, window, reset)
    weights = [("q_proj.weight", into(heads)), ("k_proj.weight", into(kv_heads)), ("v_proj.weight", into(kv_heads)),
               ("o_proj.weight", out_of(heads))]
    weights += [("q_norm.weight", same), ("k_norm.weight", same)] if norm else []
    return Case(
        name=f"attention_{name}{shape[1]}", cls="lsm/attention", shape=shape, module=module, reset=reset,
        oracle=f"transformers {'Qwen3' if norm else 'Llama'}Attention",
        sets=(f"heads={heads}", f"kv_heads={kv_heads}", f"window={window}", f"qk_norm={'yes' if norm else 'no'}",
              f"rope_base={base}", "norm_eps=1e-5"),
        weights=[(n, "attention." + n, f) for n, f in weights])


def biased(shape, heads, kv_heads):
    d = shape[2] // heads
    config = Qwen2Config(
        hidden_size=shape[2], num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=d,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="eager")
    weights = [("o_proj.weight", out_of(heads))]
    for n, h in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        weights += [(f"{n}_proj.weight", into(h)), (f"{n}_proj.bias", shaped(h, d))]
    return Case(
        name=f"attention_biased_{shape[1]}", cls="lsm/attention", shape=shape,
        module=Causal(Qwen2Attention(config, 0), config), oracle="transformers Qwen2Attention",
        sets=(f"heads={heads}", f"kv_heads={kv_heads}", "qkv_bias=yes"),
        weights=[(n, "attention." + n, f) for n, f in weights])


def cases():
    yield biased((1, 70, 16), 4, 2)
    yield attention("", (2, 64, 16), 2, 2)
    yield attention("grouped_", (1, 97, 24), 6, 2, base=500.0)
    yield attention("window_norm_", (1, 97, 16), 4, 2, window=20, norm=True)
    yield attention("packed_", (1, 70, 16), 2, 1, reset=(3, 30, 31), norm=True)
