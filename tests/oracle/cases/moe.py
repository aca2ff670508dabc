# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts: the whole blocks of Hugging Face transformers."""

from oracle import Case, matrix
from transformers import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock


def experts(prefix, hidden):
    """Their fused (expert, gate and up, in) and (expert, out, in) -> our (expert in out)"""
    return [
        ("experts.gate_proj.weight", prefix + "gate_up_proj", lambda w: w[:, :hidden].transpose(1, 2)),
        ("experts.up_proj.weight", prefix + "gate_up_proj", lambda w: w[:, hidden:].transpose(1, 2)),
        ("experts.down_proj.weight", prefix + "down_proj", lambda w: w.transpose(1, 2)),
    ]


def shared(prefix):
    return [(f"shared_expert.{n}_proj.weight", f"{prefix}{n}_proj.weight", matrix) for n in ("gate", "up", "down")]


def qwen2(name, shape, count, top_k, hidden, norm):
    config = Qwen2MoeConfig(
        hidden_size=shape[2], num_experts=count, num_experts_per_tok=top_k, moe_intermediate_size=hidden,
        shared_expert_intermediate_size=hidden + 3, norm_topk_prob=norm, experts_implementation="eager")
    return Case(
        name=f"moe_qwen2_{name}", cls="moe/qwen2", shape=shape, module=Qwen2MoeSparseMoeBlock(config),
        oracle="transformers Qwen2MoeSparseMoeBlock",
        sets=(f"ffn.experts={count}", f"ffn.top_k={top_k}", f"ffn.hidden={hidden}",
              f"ffn.shared_hidden={hidden + 3}", "ffn.shared_gate=yes", "aux_loss=0",
              f"norm_topk_prob={'yes' if norm else 'no'}"),
        weights=[("gate.weight", "gate.weight", matrix),
                 ("shared_expert_gate.weight", "shared_expert_gate.weight", lambda w: w.reshape(-1))]
        + experts("experts.", hidden) + shared("shared_expert."))


def cases():
    yield qwen2("64", (2, 32, 16), 4, 2, 10, False)
    yield qwen2("norm_97", (1, 97, 12), 6, 3, 7, True)
