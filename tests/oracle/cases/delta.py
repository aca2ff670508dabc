# SPDX-License-Identifier: Apache-2.0
"""The delta family: flash-linear-attention's layer classes over its naive references."""

import fla_cpu
import torch
import torch.nn.functional as F
from fla.layers import comba, delta_net, gated_deltanet, gated_deltaproduct, kda, rwkv7
from fla.ops.comba.naive import naive_chunk_comba
from fla.ops.delta_rule.naive import delta_rule_recurrence
from fla.ops.gated_delta_product.naive import naive_recurrent_gated_delta_product
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
from fla.ops.kda.naive import naive_recurrent_kda
from fla_cpu import l2norm
from oracle import Case, into, matrix, out_of, same, shaped, states


def kept(result):
    """(output, final state (batch heads head_k head_v)) -> what the layers expect"""
    states.append(result[1])
    return result[0], None


def softplus_decay(g, a_log, dt_bias):
    return -a_log.exp().view(-1, *[1] * (dt_bias.ndim - 1)) * F.softplus(g + dt_bias)


def delta_op(q, k, v, beta, use_qk_l2norm_in_kernel=False, **_):
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    y, s = delta_rule_recurrence(*(a.transpose(1, 2) for a in (q, k, v, beta)))
    return kept((y.transpose(1, 2), s))


def gated_delta_op(q, k, v, g, beta, A_log=None, dt_bias=None, use_qk_l2norm_in_kernel=False,
                   use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, **_):
    assert use_qk_l2norm_in_kernel and use_gate_in_kernel and use_beta_sigmoid_in_kernel
    beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    each = v.shape[2] // q.shape[2]
    q, k = (l2norm(a).repeat_interleave(each, 2) for a in (q, k))
    g = softplus_decay(g, A_log, dt_bias)
    return kept(naive_recurrent_gated_delta_rule(q, k, v, beta, g, output_final_state=True))


def product_op(q, k, v, g, beta, num_householder, use_qk_l2norm_in_kernel=False, **_):
    assert use_qk_l2norm_in_kernel
    return kept(naive_recurrent_gated_delta_product(
        l2norm(q), l2norm(k), v, g, beta, q.shape[-1] ** -0.5, num_householder=num_householder,
        output_final_state=True))


def comba_op(q, k, v, p, g, beta, use_qk_l2norm_in_kernel=False, **_):
    # as their kernels: what is erased is read before the decay; naive_recurrent_comba reads it behind
    assert use_qk_l2norm_in_kernel
    return kept(naive_chunk_comba(l2norm(q), l2norm(k), v, l2norm(p), g, beta, output_final_state=True))


def kda_op(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval=False, safe_gate=False, lower_bound=None, **_):
    heads = g.shape[2]
    f = g + dt_bias.view(heads, -1)
    rate = A_log.exp().view(heads, 1)
    g = lower_bound * torch.sigmoid(rate * f) if safe_gate else -rate * F.softplus(f)
    beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    return kept(naive_recurrent_kda(l2norm(q), l2norm(k), v, g, beta, output_final_state=True))


def rwkv7_op(r, w, k, v, a, b, scale, **_):
    r, w, k, v, a, b = (t.transpose(1, 2) for t in (r, w, k, v, a, b))
    # their reference scales by head_k^-0.5; the layer wants `scale`
    y, s = dplr_recurrence(r * scale * r.shape[-1] ** 0.5, k, v, a, b, w)
    return kept((y.transpose(1, 2), s))


def correction(o, r, k, r_k, v, g):
    bonus = (r * k * r_k).sum(-1, keepdim=True) * v
    return (o + bonus.flatten(2)) * g


fla_cpu.ops(delta_net, chunk_delta_rule=delta_op, fused_recurrent_delta_rule=delta_op)
fla_cpu.ops(gated_deltanet, chunk_gated_delta_rule=gated_delta_op)
gated_deltanet.GatedDeltaNet._use_fused_qkv_conv = lambda self, **_: False
fla_cpu.ops(gated_deltaproduct, chunk_gated_delta_product=product_op)
fla_cpu.ops(comba, chunk_comba=comba_op)
fla_cpu.ops(kda, chunk_kda=kda_op)
fla_cpu.ops(
    rwkv7, chunk_rwkv7=rwkv7_op, l2_norm=l2norm, gate_output_correction=correction,
    token_shift=lambda x, *_, **__: (F.pad(x, (0, 0, 1, -1)) - x, None),
    fused_addcmul_rwkv7=lambda x, delta, *mix: [x + delta * m for m in mix],
    fused_k_rwkv7=lambda k, a, k_a: k * (1 + (a - 1) * k_a))

YES = {True: "yes", False: "no"}
SCAN = "carry/0/3/carry"  # behind the convolutions of q, k and v


def mixer(heads, v_heads, k, v, conv=True, names="qkvo"):
    """Projections and convolutions that these layers share."""
    known = {"q": into(heads), "k": into(heads), "v": into(v_heads), "g": into(v_heads), "o": out_of(v_heads)}
    weights = [(f"{n}_proj.weight", f"{n}_proj.weight", known[n]) for n in names]
    if conv:
        weights += [(f"{n}_conv1d.weight", f"{n}_conv1d.weight", shaped(h, d, 4))
                    for n, h, d in (("q", heads, k), ("k", heads, k), ("v", v_heads, v))]
    return weights + [("o_norm.weight", "o_norm.weight", same)]


def plain(*names):
    return [(n, n, matrix if n.endswith("weight") else same) for n in names]


def deltanet(shape, heads, conv=True, gate=False, neg=False, activation="silu", norm="l2"):
    layer = delta_net.DeltaNet(
        hidden_size=shape[2], num_heads=heads, use_short_conv=conv, use_gate=gate, allow_neg_eigval=neg,
        qk_activation=activation, qk_norm=norm, norm_eps=1e-5)
    d = shape[2] // heads
    return Case(
        name=f"deltanet_{'' if conv else activation + '_'}{shape[1]}", cls="lsm/deltanet", shape=shape, module=layer,
        oracle="fla DeltaNet over delta_rule_recurrence",
        sets=(f"heads={heads}", f"short_conv={YES[conv]}", f"use_gate={YES[gate]}", f"allow_neg_eigval={YES[neg]}",
              f"qk_activation={activation}", f"qk_norm={norm}", "norm_eps=1e-5"),
        carry=(SCAN if conv else "carry/0/0/carry",),
        weights=mixer(heads, heads, d, d, conv, "qkvgo" if gate else "qkvo") + plain("b_proj.weight"))


def extreme(name, p):
    """The first head keeps all, to f32's precision; the others forget nearly all at once."""
    if name == "A_log":
        p += torch.tensor([-20.0] + [4.0] * (len(p) - 1))


def gdn(shape, heads, head_dim, v_heads=None, expand_v=1.0, gate=True, neg=False, strong=False):
    layer = gated_deltanet.GatedDeltaNet(
        hidden_size=shape[2], num_heads=heads, num_v_heads=v_heads, head_dim=head_dim, expand_v=expand_v,
        use_gate=gate, allow_neg_eigval=neg, norm_eps=1e-5)
    return Case(
        name=f"gated_deltanet_{'strong_' if strong else ''}{shape[1]}", cls="lsm/gated_deltanet", shape=shape,
        module=layer, tame=extreme if strong else None,
        oracle="fla GatedDeltaNet over naive_recurrent_gated_delta_rule",
        sets=(f"heads={heads}", f"v_heads={v_heads or 0}", f"head_dim={head_dim}", f"expand_v={expand_v}",
              f"use_gate={YES[gate]}", f"allow_neg_eigval={YES[neg]}", "norm_eps=1e-5"),
        carry=(SCAN,),
        weights=mixer(heads, v_heads or heads, head_dim, int(head_dim * expand_v), True, "qkvgo" if gate else "qkvo")
        + plain("a_proj.weight", "b_proj.weight", "A_log", "dt_bias"))


def product(shape, heads, head_dim, steps, forget=True, neg=True):
    layer = gated_deltaproduct.GatedDeltaProduct(
        hidden_size=shape[2], num_heads=heads, head_dim=head_dim, expand_v=1, num_householder=steps,
        use_forget_gate=forget, allow_neg_eigval=neg, norm_eps=1e-5)
    e, h, d, n = shape[2], heads, head_dim, steps

    def stepped(w):
        return w.T.reshape(e, n, h, -1)

    weights = [
        ("q_proj.weight", into(h)), ("k_proj.weight", stepped), ("v_proj.weight", stepped),
        ("b_proj.weight", lambda w: w.T.reshape(e, n, h)), ("g_proj.weight", into(h)), ("o_proj.weight", out_of(h)),
        ("q_conv1d.weight", shaped(h, d, 4)), ("k_conv1d.weight", shaped(n, h, d, 4)),
        ("v_conv1d.weight", shaped(n, h, d, 4)), ("o_norm.weight", same)]
    weights = [(name, name, layout) for name, layout in weights]
    return Case(
        name=f"delta_product_{shape[1]}", cls="lsm/delta_product", shape=shape, module=layer,
        oracle="fla GatedDeltaProduct over naive_recurrent_gated_delta_product",
        sets=(f"heads={h}", f"head_dim={d}", "expand_v=1", f"num_householder={n}", f"forget_gate={YES[forget]}",
              f"allow_neg_eigval={YES[neg]}", "norm_eps=1e-5"),
        carry=(SCAN,),
        weights=weights + (plain("a_proj.weight", "A_log", "dt_bias") if forget else []))


def comba_case(shape, heads, head_dim, expand_v=1.0, correct=True, inner=True):
    layer = comba.Comba(
        hidden_size=shape[2], num_heads=heads, head_dim=head_dim, expand_v=expand_v, norm_eps=1e-5,
        use_output_correction=correct, use_inner_decay=inner, correction_factor=0.5)
    return Case(
        name=f"comba_{shape[1]}", cls="lsm/comba", shape=shape, module=layer,
        oracle="fla Comba over naive_chunk_comba",
        sets=(f"heads={heads}", f"head_dim={head_dim}", f"expand_v={expand_v}", f"output_correction={YES[correct]}",
              f"inner_decay={YES[inner]}", "norm_eps=1e-5"),
        carry=(SCAN,),
        weights=mixer(heads, heads, head_dim, int(head_dim * expand_v), True, "qkvgo")
        + plain("a_proj.weight", "b_proj.weight", "A_log", "dt_bias")
        + (plain("D") if correct else []) + (plain("decay") if inner else []))


def kda_case(shape, heads, head_dim, v_heads=None, bound=None, neg=False, strong=False):
    layer = kda.KimiDeltaAttention(
        hidden_size=shape[2], num_heads=heads, num_v_heads=v_heads, head_dim=head_dim, expand_v=1, norm_eps=1e-5,
        allow_neg_eigval=neg, safe_gate=bound is not None, lower_bound=bound)
    h, d = v_heads or heads, head_dim
    return Case(
        name=f"kda_{'strong_' if strong else ''}{shape[1]}", cls="lsm/kda", shape=shape, module=layer,
        tame=extreme if strong else None,
        oracle="fla KimiDeltaAttention over naive_recurrent_kda",
        sets=(f"heads={heads}", f"v_heads={v_heads or 0}", f"head_dim={d}", "expand_v=1", "norm_eps=1e-5",
              f"allow_neg_eigval={YES[neg]}", f"lower_bound={bound or 0}"),
        carry=(SCAN,),
        weights=mixer(heads, h, d, d) + plain("b_proj.weight", "A_log", "f_proj.0.weight", "g_proj.0.weight") + [
            ("dt_bias", "dt_bias", shaped(h, d)), ("f_proj.1.weight", "f_proj.1.weight", into(h)),
            ("g_proj.1.weight", "g_proj.1.weight", into(h)), ("g_proj.1.bias", "g_proj.1.bias", shaped(h, d))])


class Rwkv7(torch.nn.Module):
    """Layers 0 ... n-1 behind each other; the values of the first go to the others."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        first = None
        for layer in self.layers:
            x, _, _, first = layer(x, v_first=first)
        return x


def rwkv7_case(shape, head_dim, count):
    e, h, d = shape[2], shape[2] // head_dim, head_dim
    layers = [rwkv7.RWKV7Attention(
        hidden_size=e, head_dim=d, decay_low_rank_dim=4, gate_low_rank_dim=5, a_low_rank_dim=3, v_low_rank_dim=2,
        layer_idx=i, num_hidden_layers=max(count, 2), fuse_norm=True, norm_eps=1e-5) for i in range(count)]
    weights = []
    for i in range(count):
        one = [(f"x_{n}", shaped(e)) for n in "rwkvag"] + [(n, shaped(h, d)) for n in ("k_k", "k_a", "r_k")]
        one += [(f"{n}_proj.weight", into(h)) for n in "rkv"] + [("o_proj.weight", out_of(h))]
        for n in "wavg" if i else "wag":
            one += [(f"{n}_lora.lora.0.weight", matrix), (f"{n}_lora.lora.2.weight", into(h))]
            one += [] if n == "g" else [(f"{n}_lora.lora.2.bias", shaped(h, d))]
        one += [("g_norm.weight", shaped(h, d)), ("g_norm.bias", shaped(h, d))]
        weights += [(f"{i}.{n}" if count > 1 else n, f"layers.{i}.{n}", f) for n, f in one]
    return Case(
        name=f"rwkv7_{shape[1]}", cls="lsm/rwkv7", shape=shape, module=Rwkv7(layers), weights=weights,
        oracle="fla RWKV7Attention over dplr_recurrence", layers=",".join(map(str, range(count))) if count > 1 else "",
        sets=(f"head_dim={d}", "decay_low_rank=4", "gate_low_rank=5", "a_low_rank=3", "v_low_rank=2", "norm_eps=1e-5",
              f"model.layers={max(count, 2)}"))


def cases():
    yield deltanet((2, 64, 16), 2)
    yield deltanet((1, 97, 16), 2, gate=True, neg=True)
    yield deltanet((1, 70, 16), 2, conv=False, activation="elu", norm="sum")
    yield gdn((2, 64, 16), 2, 8, neg=True)
    yield gdn((1, 97, 16), 2, 6, v_heads=4, expand_v=1.5)
    yield gdn((1, 70, 16), 2, 8, strong=True)
    yield product((1, 64, 16), 2, 8, 2)
    yield product((1, 97, 12), 2, 5, 3, forget=False)
    yield comba_case((2, 64, 16), 2, 8)
    yield comba_case((1, 97, 16), 2, 6, expand_v=1.5)
    yield kda_case((2, 64, 16), 2, 8, neg=True)
    yield kda_case((1, 97, 16), 2, 6, v_heads=4, bound=-5.0)
    yield kda_case((1, 70, 16), 2, 8, strong=True)
    yield rwkv7_case((1, 64, 16), 8, 1)
    yield rwkv7_case((1, 97, 12), 6, 2)
