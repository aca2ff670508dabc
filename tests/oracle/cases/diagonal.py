# SPDX-License-Identifier: Apache-2.0
"""More layers over a diagonal recurrence: classes of flash-linear-attention over its naive references, Hugging Face
transformers' Mamba-2 and DeepSeek attention, and recurrences from the equations where nobody published a layer."""

import fla_cpu
import torch
import torch.nn.functional as F
from cases.attention import Causal
from cases.linear import CARRY, gla_op, linear_op, projections
from fla.layers import based, gsa, hgrn2, rebased, rwkv6, simple_gla
from fla.modules import feature_map
from fla.ops.based.naive import naive_parallel_based
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.gsa.naive import naive_recurrent_gsa
from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
from oracle import Case, into, matrix, out_of, same, shaped, states
from transformers import DeepseekV3Config, Mamba2Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

YES = {False: "no", True: "yes"}


def simple_op(q, k, v, g=None, gk=None, **_):
    g = g if gk is None else gk
    return gla_op(q, k, v, gk=g[..., None].expand(*g.shape, k.shape[-1]))


def gsa_op(q, k, v, s, g, scale=None, **_):
    y, state = naive_recurrent_gsa(q, k, v, s, g, scale=scale, output_final_state=True)
    states.extend(state)
    return y, None


def rwkv6_op(r, k, v, w, u, scale=1.0, **_):
    y, _ = naive_recurrent_rwkv6(*(a.transpose(1, 2) for a in (r, k, v, w)), u, scale=scale)
    return y.transpose(1, 2), None


def normalized_op(q, k, v, scale=1, normalize=True, **_):
    p = torch.einsum("bthd,bshd->bhts", q * scale, k).tril()
    y = torch.einsum("bhts,bshv->bthv", p, v)
    return y / (p.sum(-1).transpose(1, 2)[..., None] + 1e-10), None


def rebased_op(q, k, v, eps=1e-5, **_):
    p = torch.einsum("bthd,bshd->bhts", q * q.shape[-1] ** -0.5, k).square().tril()
    y = torch.einsum("bhts,bshv->bthv", p, v)
    return y / (p.sum(-1).transpose(1, 2)[..., None] + eps)


fla_cpu.ops(simple_gla, chunk_simple_gla=simple_op, fused_recurrent_simple_gla=simple_op)
fla_cpu.ops(hgrn2, chunk_gla=gla_op, fused_recurrent_gla=gla_op, rms_norm_linear=fla_cpu.rms_norm_linear,
            swish=F.silu)
fla_cpu.ops(gsa, chunk_gsa=gsa_op, fused_recurrent_gsa=gsa_op, rms_norm_linear=fla_cpu.rms_norm_linear)
fla_cpu.ops(rwkv6, chunk_rwkv6=rwkv6_op, fused_recurrent_rwkv6=rwkv6_op,
            token_shift=lambda x, _=None: F.pad(x, (0, 0, 1, -1)) - x)
fla_cpu.ops(based, chunk_linear_attn=normalized_op)
fla_cpu.ops(rebased, parallel_rebased=rebased_op)
fla_cpu.ops(feature_map, swish=F.silu, layer_norm=lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5))


def convolutions(heads, kv_heads, k, v):
    return [("q_conv1d.weight", "q_conv1d.weight", shaped(heads, k, 4)),
            ("k_conv1d.weight", "k_conv1d.weight", shaped(kv_heads, k, 4)),
            ("v_conv1d.weight", "v_conv1d.weight", shaped(kv_heads, v, 4))]


def simple_gla_case(shape, heads, kv_heads=0, conv=True, normalizer=16, strong=False):
    g, e = kv_heads or heads, shape[2]
    layer = simple_gla.SimpleGatedLinearAttention(
        hidden_size=e, num_heads=heads, num_kv_heads=g, use_short_conv=conv, gate_logit_normalizer=normalizer)
    weights = projections(heads, "q", "g", "o") + projections(g, "k", "v") + [
        ("gk_proj.weight", "gk_proj.weight", matrix), ("gk_proj.bias", "gk_proj.bias", same),
        ("g_norm_swish_gate.weight", "g_norm_swish_gate.weight", same)]
    if conv:
        weights += convolutions(heads, g, e // heads, e // heads)

    def extreme(name, p):  # one head forgets all from token to token, one nothing, the others now and then
        if name == "gk_proj.bias":
            p[:2] += torch.tensor([-40.0, 40.0])
        if name == "gk_proj.weight":
            p[2:] *= 5

    return Case(
        name=f"simple_gla_{'strong_' if strong else '' if conv else 'plain_'}{shape[1]}", cls="lsm/simple_gla",
        shape=shape, module=layer, tame=extreme if strong else None,
        oracle="fla SimpleGatedLinearAttention over naive_recurrent_gla",
        sets=(f"heads={heads}", f"kv_heads={kv_heads}", f"gate_normalizer={normalizer}", f"short_conv={YES[conv]}"),
        carry=("carry/0/3/carry" if conv else CARRY,), weights=weights)


class WithBounds(torch.nn.Module):
    """HGRN2's layer with the lower bounds that their model computes for it."""

    def __init__(self, layer, layers):
        super().__init__()
        self.layer, self.lower_bounds = layer, torch.nn.Parameter(torch.zeros(layers, layer.forget_dim))

    def forward(self, x):
        p = self.lower_bounds.softmax(0)
        bound = (p.cumsum(0) - p[0])[self.layer.layer_idx]
        return self.layer(x, lower_bound=bound)[0]


def hgrn2_case(shape, ratio, index, conv=False):
    e = shape[2]
    layer = hgrn2.HGRN2Attention(hidden_size=e, expand_ratio=ratio, use_short_conv=conv, layer_idx=index)
    heads = e // ratio
    weights = [(f"{n}_proj.weight", f"layer.{n}_proj.weight", into(heads)) for n in "qfi"] + [
        ("o_proj.weight", "layer.o_proj.weight", out_of(heads)), ("g_norm.weight", "layer.g_norm.weight", same),
        ("lower_bounds", "lower_bounds", shaped(index + 1, heads, ratio))]
    if conv:
        weights += [(f"{n}_conv1d.weight", f"layer.{n}_conv1d.weight", shaped(heads, ratio, 4)) for n in "qfi"]
    return Case(
        name=f"hgrn2_layer{index}_{shape[1]}", cls="lsm/hgrn2", shape=shape, module=WithBounds(layer, index + 1),
        oracle="fla HGRN2Attention over naive_recurrent_gla", layers=str(index),
        sets=(f"expand_ratio={ratio}", f"short_conv={YES[conv]}"),
        carry=(f"carry/{index}/{3 if conv else 0}/carry",), weights=weights)


def based_case(shape, heads, d):
    layer = based.BasedLinearAttention(
        hidden_size=shape[2], feature_dim=d, num_heads=heads, num_key_value_heads=heads, mode="chunk")
    return Case(
        name=f"based_{shape[1]}", cls="lsm/based", shape=shape, module=layer,
        oracle="fla BasedLinearAttention, its sums written out",
        sets=(f"heads={heads}", f"feature_dim={d}"), weights=projections(heads, "q", "k", "v", "o"))


def rebased_case(shape, heads, d):
    layer = rebased.ReBasedLinearAttention(
        hidden_size=shape[2], feature_dim=d, num_heads=heads, num_key_value_heads=heads)
    return Case(
        name=f"rebased_{shape[1]}", cls="lsm/rebased", shape=shape, module=layer,
        oracle="fla ReBasedLinearAttention, its sums written out",
        sets=(f"heads={heads}", f"feature_dim={d}"),
        weights=projections(heads, "q", "k", "v", "o")
        + [(f"feature_map.{n}", f"feature_map.{n}", same) for n in ("gamma", "beta")])


def gsa_case(shape, heads, slots, kv_heads=0, conv=False):
    g, e = kv_heads or heads, shape[2]
    layer = gsa.GatedSlotAttention(
        hidden_size=e, num_heads=heads, num_kv_heads=g, num_slots=slots, use_short_conv=conv)
    weights = projections(heads, "q", "o") + projections(g, "k", "v") + [
        ("f_proj.weight", "f_proj.weight", into(g)), ("g_norm.weight", "g_norm.weight", same)]
    if conv:
        weights += convolutions(heads, g, e // heads, e // heads)
    first = 3 if conv else 0
    return Case(
        name=f"gsa_{'conv_' if conv else ''}{shape[1]}", cls="lsm/gsa", shape=shape, module=layer,
        oracle="fla GatedSlotAttention over naive_recurrent_gsa",
        sets=(f"heads={heads}", f"kv_heads={kv_heads}", f"slots={slots}", f"short_conv={YES[conv]}"),
        carry=(f"carry/0/{first}/carry", f"carry/0/{first + 1}/carry"), weights=weights)


def rwkv6_case(shape, heads, strong=0.0):
    layer = rwkv6.RWKV6Attention(
        hidden_size=shape[2], num_heads=heads, proj_low_rank_dim=3, gate_low_rank_dim=5)
    k, v = shape[2] // 2 // heads, shape[2] // heads
    weights = [
        ("x_proj.0.mu", "x_proj.0.mu", same),
        ("x_proj.0.linear.weight", "x_proj.0.linear.weight", lambda w: w.T.reshape(-1, 5, 3)),
        ("x_proj.2.weight", "x_proj.2.weight", shaped(-1, 5, 3)), ("x_bias", "x_bias", same),
        ("w_proj.linear.lora.0.weight", "w_proj.linear.lora.0.weight", matrix),
        ("w_proj.linear.lora.2.weight", "w_proj.linear.lora.2.weight", into(heads)),
        ("w_proj.linear.lora.2.bias", "w_proj.linear.lora.2.bias", shaped(heads, k)), ("bonus", "bonus", same),
        ("g_norm.weight", "g_norm.weight", shaped(heads, v)), ("g_norm.bias", "g_norm.bias", shaped(heads, v)),
        ("o_proj.weight", "o_proj.weight", out_of(heads))]
    weights += [(f"{n}_proj.linear.weight", f"{n}_proj.linear.weight", into(heads)) for n in "rkvg"]

    def tame(name, p):
        if name.endswith("lora.2.bias"):
            p += strong

    return Case(
        name=f"rwkv6_{'strong_' if strong else ''}{shape[1]}", cls="lsm/rwkv6", shape=shape, module=layer,
        oracle="fla RWKV6Attention over naive_recurrent_rwkv6", tame=tame,
        sets=(f"heads={heads}", "proj_low_rank=3", "gate_low_rank=5"), weights=weights)


class Mixer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixer = Mamba2Mixer(config, 0).eval()

    def forward(self, x):
        return self.mixer.eval()(x)


def mamba2_case(shape, head_dim, state, groups):
    e = shape[2]
    config = Mamba2Config(
        hidden_size=e, num_heads=2 * e // head_dim, head_dim=head_dim, state_size=state, n_groups=groups, expand=2,
        chunk_size=16, num_hidden_layers=1, use_bias=False, use_conv_bias=True, layer_norm_epsilon=1e-5)
    weights = [("in_proj.weight", matrix), ("conv1d.weight", lambda w: w[:, 0]), ("conv1d.bias", same),
               ("dt_bias", same), ("A_log", same), ("D", same), ("norm.weight", same), ("out_proj.weight", matrix)]
    return Case(
        name=f"mamba2_{shape[1]}", cls="lsm/mamba2", shape=shape, module=Mixer(config),
        oracle="transformers Mamba2Mixer",
        sets=(f"head_dim={head_dim}", f"state={state}", f"groups={groups}"),
        weights=[(n, "mixer." + n, f) for n, f in weights])


class Latent(Causal):
    def __init__(self, attention, config):
        super().__init__(attention, config)
        self.attention.head_dim = config.qk_rope_head_dim


def mla_case(shape, heads, q_rank, absorb):
    rank, nope, rope, v = 10, 6, 4, 5
    config = DeepseekV3Config(
        hidden_size=shape[2], num_attention_heads=heads, num_key_value_heads=heads, q_lora_rank=q_rank or None,
        kv_lora_rank=rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=v, rope_interleave=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="eager")
    weights = [("q_proj.weight", "q_proj.weight", into(heads))]
    if q_rank:
        weights = [("q_proj.0.weight", "q_a_proj.weight", matrix), ("q_proj.1.weight", "q_a_layernorm.weight", same),
                   ("q_proj.2.weight", "q_b_proj.weight", into(heads))]
    weights += [("kv_proj.0.weight", "kv_a_proj_with_mqa.weight", lambda w: w[:rank].T),
                ("k_rope.weight", "kv_a_proj_with_mqa.weight", lambda w: w[rank:].T),
                ("kv_proj.1.weight", "kv_a_layernorm.weight", same),
                ("kv_proj.2.weight", "kv_b_proj.weight", into(heads)), ("o_proj.weight", "o_proj.weight", out_of(heads))]
    return Case(
        name=f"mla_{'absorb_' if absorb else ''}{shape[1]}", cls="lsm/mla", shape=shape,
        module=Latent(DeepseekV3Attention(config, 0), config), oracle="transformers DeepseekV3Attention",
        sets=(f"heads={heads}", f"q_rank={q_rank}", f"kv_rank={rank}", f"nope_dim={nope}", f"rope_dim={rope}",
              f"v_dim={v}", "norm_eps=1e-6", f"absorb={YES[absorb]}"),
        weights=[(n, "attention." + m, f) for n, m, f in weights])


class Recurrence(torch.nn.Module):
    """The equations: S_t = (alpha_t gamma_t^T) * S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t. gate: of the output."""

    def __init__(self, e, heads, k, v, low_rank=0, layer=0, slopes=None):
        super().__init__()
        self.heads, self.slopes = heads, slopes
        for n, width in (("q", k), ("k", k), ("v", v), ("g", v)):
            setattr(self, n + "_proj", torch.nn.Linear(e, heads * width, bias=False))
        self.o_proj = torch.nn.Linear(heads * v, e, bias=False)
        self.norm = torch.nn.Parameter(torch.ones(v))
        for n, width in (("gk", k), ("gv", v)) if low_rank else ():
            setattr(self, n + "_proj", torch.nn.Sequential(
                torch.nn.Linear(e, low_rank, bias=False), torch.nn.Linear(low_rank, heads * width)))

    def forward(self, x):
        split = lambda p: p(x).unflatten(-1, (self.heads, -1))  # noqa: E731
        q, k, v, gate = (split(getattr(self, n + "_proj")) for n in "qkvg")
        if self.slopes is None:
            alpha, gamma = (F.logsigmoid(split(getattr(self, n))).div(16).exp() for n in ("gk_proj", "gv_proj"))
            gate, scale = F.silu(gate), q.shape[-1] ** -0.5
        else:
            alpha = torch.exp(-torch.as_tensor(self.slopes))[:, None].expand(q.shape)
            gamma, gate, scale = torch.ones_like(v), torch.sigmoid(gate), 1.0
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        s, rows = 0, []
        for t in range(x.shape[1]):
            s = s * (alpha[:, t, :, :, None] * gamma[:, t, :, None, :]) + k[:, t, :, :, None] * v[:, t, :, None, :]
            rows.append(scale * torch.einsum("bhkv,bhk->bhv", s, q[:, t]))
        states.append(s)
        y = fla_cpu.rms(torch.stack(rows, 1), self.norm, 1e-6) * gate
        return self.o_proj(y.flatten(2))


def gfw_case(shape, heads, k, v):
    e = shape[2]
    weights = projections(heads, "q", "k", "v", "g", "o") + [("g_norm_swish_gate.weight", "norm", same)]
    for n, width in (("gk", k), ("gv", v)):
        weights += [(f"{n}_proj.0.weight", f"{n}_proj.0.weight", matrix),
                    (f"{n}_proj.1.weight", f"{n}_proj.1.weight", into(heads)),
                    (f"{n}_proj.1.bias", f"{n}_proj.1.bias", shaped(heads, width))]
    return Case(
        name=f"gfw_{shape[1]}", cls="lsm/gfw", shape=shape, module=Recurrence(e, heads, k, v, low_rank=5),
        oracle="the recurrence by autograd", carry=(CARRY,), weights=weights,
        sets=(f"heads={heads}", f"expand_k={heads * k / e}", f"expand_v={heads * v / e}", "low_rank=5"))


def lightning_case(shape, heads, layer, slopes):
    e = shape[2]
    return Case(
        name=f"lightning_{shape[1]}", cls="lsm/lightning", shape=shape, layers=str(layer),
        module=Recurrence(e, heads, e // heads, e // heads, slopes=slopes), oracle="the recurrence by autograd",
        carry=(f"carry/{layer}/0/carry",), sets=(f"heads={heads}",) + (("slopes=alibi",) if layer else ()),
        weights=projections(heads, "q", "k", "v", "g", "o") + [("g_norm.weight", "norm", same)])


def cases():
    yield simple_gla_case((2, 64, 16), 2, normalizer=1)
    yield simple_gla_case((1, 97, 24), 4, kv_heads=2, conv=False)
    yield hgrn2_case((2, 64, 16), 8, 0)
    yield hgrn2_case((1, 97, 16), 8, 2)
    yield hgrn2_case((1, 70, 16), 8, 1, conv=True)
    yield based_case((2, 64, 16), 2, 4)
    yield based_case((1, 97, 24), 3, 6)
    yield rebased_case((2, 64, 16), 2, 4)
    yield rebased_case((1, 97, 24), 3, 6)
    yield gsa_case((2, 64, 16), 2, 5)
    yield gsa_case((1, 97, 24), 4, 7, kv_heads=2)
    yield gsa_case((1, 70, 16), 2, 5, conv=True)
    yield rwkv6_case((2, 64, 16), 2)
    yield rwkv6_case((1, 97, 16), 2)
    yield rwkv6_case((1, 70, 16), 2, strong=3.0)
    yield simple_gla_case((1, 70, 16), 4, normalizer=1, strong=True)
    yield mamba2_case((2, 64, 16), 8, 6, 1)
    yield mamba2_case((1, 97, 16), 8, 6, 2)
    yield mla_case((2, 64, 16), 2, 0, False)
    yield mla_case((1, 97, 16), 3, 7, False)
    yield mla_case((1, 97, 16), 2, 7, True)
    yield gfw_case((2, 64, 16), 2, 4, 8)
    yield gfw_case((1, 97, 16), 2, 8, 4)
    yield lightning_case((2, 64, 16), 2, 0, [2.0**-4, 2.0**-8])
    yield lightning_case((1, 97, 12), 3, 1, [2.0**-4, 2.0**-8, 2.0**-2])
