# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts: the whole blocks of Hugging Face transformers."""

import torch
from oracle import Case, losses, matrix, same
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig, Qwen2MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock


def experts(prefix, hidden):
    """Their fused (expert, gate and up, in) and (expert, out, in) -> our (expert in out)"""
    return [
        ("experts.gate_proj.weight", prefix + "gate_up_proj", lambda w: w[:, :hidden].transpose(1, 2)),
        ("experts.up_proj.weight", prefix + "gate_up_proj", lambda w: w[:, hidden:].transpose(1, 2)),
        ("experts.down_proj.weight", prefix + "down_proj", lambda w: w.transpose(1, 2)),
    ]


def shared(prefix):
    """A dense expert of theirs is our shared one."""
    return [(f"shared_expert.{n}_proj.weight", f"{prefix}{n}_proj.weight", matrix) for n in ("gate", "up", "down")]


def balance(block, count, top_k, factor):
    """Adds the loss that their models add to that of the tokens."""
    def hook(router, inputs, outputs):
        losses.append(("aux_loss/0", factor * load_balancing_loss_func((outputs[0],), count, top_k)))
    block.gate.register_forward_hook(hook)
    return block


def qwen2(name, shape, count, top_k, hidden, norm):
    config = Qwen2MoeConfig(
        hidden_size=shape[2], num_experts=count, num_experts_per_tok=top_k, moe_intermediate_size=hidden,
        shared_expert_intermediate_size=hidden + 3, norm_topk_prob=norm, experts_implementation="eager")
    return Case(
        name=f"moe_qwen2_{name}", cls="moe/qwen2", shape=shape,
        module=balance(Qwen2MoeSparseMoeBlock(config), count, top_k, 0.5), oracle="transformers Qwen2MoeSparseMoeBlock",
        sets=(f"ffn.experts={count}", f"ffn.top_k={top_k}", f"ffn.hidden={hidden}",
              f"ffn.shared_hidden={hidden + 3}", "ffn.shared_gate=yes", "aux_loss=0.5",
              f"norm_topk_prob={'yes' if norm else 'no'}"),
        weights=[("gate.weight", "gate.weight", matrix),
                 ("shared_expert_gate.weight", "shared_expert_gate.weight", lambda w: w.reshape(-1))]
        + experts("experts.", hidden) + shared("shared_expert."))


def block(name, cls, shape, module, oracle, count, top_k, hidden, sets=(), weights=(),
          aux_loss=0):
    return Case(
        name=f"moe_{name}", cls=cls, shape=shape, module=module, oracle=oracle,
        sets=(f"ffn.experts={count}", f"ffn.top_k={top_k}", f"ffn.hidden={hidden}", f"aux_loss={aux_loss}") + tuple(sets),
        weights=[("gate.weight", "gate.weight", matrix)] + experts("experts.", hidden) + list(weights))


def mixtral(name, shape, count, top_k, hidden):
    config = MixtralConfig(
        hidden_size=shape[2], num_local_experts=count, num_experts_per_tok=top_k, intermediate_size=hidden,
        experts_implementation="eager")
    return block(f"mixtral_{name}", "moe/mixtral", shape, balance(MixtralSparseMoeBlock(config), count, top_k, 0.5),
                 "transformers MixtralSparseMoeBlock", count, top_k, hidden, aux_loss=0.5)


def deepseek_v2(name, shape, count, top_k, hidden, groups, kept, scale):
    config = DeepseekV2Config(
        hidden_size=shape[2], num_experts=count, num_experts_per_tok=top_k, moe_intermediate_size=hidden,
        n_shared_experts=2, num_attention_heads=1, n_group=groups, topk_group=kept, routed_scaling_factor=scale,
        topk_method="group_limited_greedy" if groups > 1 else "greedy", experts_implementation="eager")
    config.num_experts = count
    return block(f"deepseek_v2_{name}", "moe/deepseek_v2", shape, DeepseekV2Moe(config), "transformers DeepseekV2Moe",
                 count, top_k, hidden,
                 (f"ffn.shared_hidden={2 * hidden}", f"groups={groups}", f"top_groups={kept}", f"scale={scale}"),
                 shared("shared_experts."))


def deepseek_v3(name, shape, count, top_k, hidden, groups, kept, scale, norm):
    config = DeepseekV3Config(
        hidden_size=shape[2], n_routed_experts=count, num_experts_per_tok=top_k, moe_intermediate_size=hidden,
        n_shared_experts=1, num_attention_heads=1, num_key_value_heads=1,
        n_group=groups, topk_group=kept, routed_scaling_factor=scale, norm_topk_prob=norm,
        experts_implementation="eager")
    module = DeepseekV3MoE(config)
    bias = module.gate.e_score_correction_bias  # a buffer, to be drawn like a parameter
    del module.gate.e_score_correction_bias
    module.gate.e_score_correction_bias = torch.nn.Parameter(bias)
    return block(f"deepseek_v3_{name}", "moe/deepseek_v3", shape, module, "transformers DeepseekV3MoE", count, top_k,
                 hidden,
                 (f"ffn.shared_hidden={hidden}", f"groups={groups}", f"top_groups={kept}", f"scale={scale}",
                  f"norm_topk_prob={'yes' if norm else 'no'}"),
                 [("gate.e_score_correction_bias", "gate.e_score_correction_bias", same)] + shared("shared_experts."))


def cases():
    yield qwen2("64", (2, 32, 16), 4, 2, 10, False)
    yield qwen2("norm_97", (1, 97, 12), 6, 3, 7, True)
    yield mixtral("64", (2, 32, 16), 4, 2, 10)
    yield mixtral("97", (1, 97, 12), 8, 3, 6)
    yield deepseek_v2("64", (2, 32, 16), 6, 2, 10, 1, 1, 1.0)
    yield deepseek_v2("groups_97", (1, 97, 12), 8, 3, 6, 4, 2, 1.5)
    yield deepseek_v3("64", (2, 32, 16), 8, 2, 6, 4, 2, 2.5, True)
    yield deepseek_v3("97", (1, 97, 12), 6, 3, 7, 2, 1, 1.0, False)
