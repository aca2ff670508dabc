# SPDX-License-Identifier: Apache-2.0
"""Layers over a diagonal recurrence: flash-linear-attention's layer classes over its naive references."""

import fla_cpu
from fla.layers import gla, linear_attn, multiscale_retention
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
from fla.ops.retention.naive import naive_retention
from oracle import Case, into, matrix, out_of, same, shaped, states

CARRY = "carry/0/0/carry"  # (batch heads head_k head_v)


def linear_op(q, k, v, normalize=False, **_):
    y, s = naive_recurrent_linear_attn(q, k, v, normalize=normalize, output_final_state=True)
    if not normalize:
        states.append(s)
    return y, None


def gla_op(q, k, v, gk=None, g=None, **_):
    y, s = naive_recurrent_gla(q, k, v, g if gk is None else gk, output_final_state=True)
    states.append(s)
    return y, None


def retention_op(q, k, v, **_):
    return naive_retention(*(a.transpose(1, 2) for a in (q, k, v))).transpose(1, 2), None


fla_cpu.ops(linear_attn, chunk_linear_attn=linear_op)
fla_cpu.ops(gla, chunk_gla=gla_op, fused_recurrent_gla=gla_op)
fla_cpu.ops(multiscale_retention, chunk_retention=retention_op)


def projections(heads, *names):
    known = {"q": into(heads), "k": into(heads), "v": into(heads), "g": into(heads), "o": out_of(heads)}
    return [(f"{n}_proj.weight", f"{n}_proj.weight", known[n]) for n in names]


def bla_map(name, tied):
    parts = {
        "elementwise_product": [
            ("layer1.weight", matrix), ("layer1.bias", same), ("layer2.weight", matrix), ("layer2.bias", same)],
        "hedgehog": [("layer.weight", matrix), ("layer.bias", same)],
        "t2r": [("layer.weight", matrix)],
    }.get(name, [])
    sides = "q" if tied else "qk"
    return [(f"feature_map_{s}.{p}", f"feature_map_{s}.{p}", f) for s in sides for p, f in parts]


def bla(name, shape, feature_map, heads=2, normalize=False, tied=False, expand_v=1.0, kv_heads=0, sum_norm=False):
    yes = {False: "no", True: "yes"}
    layer = linear_attn.LinearAttention(
        hidden_size=shape[2], num_heads=heads, num_kv_heads=kv_heads or heads, expand_v=expand_v,
        feature_map=feature_map, tie_feature_map_qk=tied, do_feature_map_norm=normalize, norm_q=sum_norm,
        norm_k=sum_norm, norm_eps=1e-5)
    return Case(
        name=f"bla_{name}_{shape[1]}", cls="lsm/bla", shape=shape, module=layer,
        oracle="fla LinearAttention over naive_recurrent_linear_attn",
        sets=(f"heads={heads}", f"expand_v={expand_v}", f"feature_map={feature_map}", "norm_eps=1e-5",
              f"tie_feature_map={yes[tied]}", f"normalize={yes[normalize]}", f"kv_heads={kv_heads}",
              f"sum_norm={'qk' if sum_norm else 'none'}"),
        carry=() if normalize else (CARRY,),
        weights=projections(heads, "q", "o") + projections(kv_heads or heads, "k", "v") + bla_map(feature_map, tied)
        + [("norm.weight", "norm.weight", same)])


def retention(shape, heads, expand_v, gate=True):
    layer = multiscale_retention.MultiScaleRetention(
        hidden_size=shape[2], num_heads=heads, expand_v=expand_v, use_output_gate=gate, norm_eps=1e-6)
    norm = "g_norm_swish_gate.weight" if gate else "g_norm.weight"
    return Case(
        name=f"retention_{'' if gate else 'no_gate_'}{shape[1]}", cls="lsm/retention", shape=shape, module=layer,
        oracle="fla MultiScaleRetention over naive_retention",
        sets=(f"heads={heads}", f"expand_v={expand_v}", "norm_eps=1e-6", f"output_gate={'yes' if gate else 'no'}"),
        weights=projections(heads, "q", "k", "v", "o") + (projections(heads, "g") if gate else [])
        + [(norm, norm, same)])


def gla_case(shape, heads, conv=False, low_rank=5, normalizer=16, kv_heads=0, least=0, activation="none"):
    layer = gla.GatedLinearAttention(
        hidden_size=shape[2], num_heads=heads, num_kv_heads=kv_heads or heads, expand_k=0.5, use_short_conv=conv,
        gate_low_rank_dim=low_rank, gate_logit_normalizer=normalizer, norm_eps=1e-5, clamp_min=least or None,
        feature_map=None if activation == "none" else activation)
    k, v, g = shape[2] // 2 // heads, shape[2] // heads, kv_heads or heads
    weights = projections(heads, "q", "g", "o") + projections(g, "k", "v") + [
        ("gk_proj.0.weight", "gk_proj.0.weight", matrix),
        ("gk_proj.1.weight", "gk_proj.1.weight", into(g)),
        ("gk_proj.1.bias", "gk_proj.1.bias", shaped(g, k)),
        ("g_norm_swish_gate.weight", "g_norm_swish_gate.weight", same)]
    if conv:
        weights += [(f"{n}_conv1d.weight", f"{n}_conv1d.weight", shaped(heads, d, 4)) for n, d in zip("qkv", (k, k, v))]
    return Case(
        name=f"gla_{'conv_' if conv else ''}{'grouped_' if kv_heads else ''}{shape[1]}", cls="lsm/gla", shape=shape, module=layer,
        oracle="fla GatedLinearAttention over naive_recurrent_gla",
        sets=(f"heads={heads}", "expand_k=0.5", f"low_rank={low_rank}", f"gate_normalizer={normalizer}",
              "norm_eps=1e-5", f"short_conv={'yes' if conv else 'no'}", f"kv_heads={kv_heads}", f"min_log_decay={least}",
              f"activation={activation}"),
        carry=(CARRY,) if not conv else ("carry/0/3/carry",), weights=weights)


def cases():
    yield bla("product", (2, 64, 16), "elementwise_product", expand_v=2.0)
    yield bla("product", (1, 97, 16), "elementwise_product", tied=True)
    yield bla("identity", (1, 97, 16), "identity")
    yield bla("elu_normalize", (2, 64, 16), "elu", normalize=True)
    yield bla("relu_normalize", (1, 97, 16), "relu", normalize=True)
    yield bla("hedgehog_normalize", (2, 64, 16), "hedgehog", normalize=True)
    yield bla("hedgehog", (1, 97, 16), "hedgehog", tied=True)
    yield bla("t2r", (1, 97, 16), "t2r")
    yield bla("dpfp_normalize", (1, 97, 16), "dpfp", normalize=True)
    yield bla("t2r_grouped", (1, 97, 16), "t2r", heads=4, kv_heads=2)
    yield bla("relu_sum_norm", (1, 70, 16), "relu", sum_norm=True)
    yield retention((2, 64, 16), 2, 2.0)
    yield retention((1, 97, 24), 3, 1.0)
    yield retention((1, 70, 16), 2, 2.0, gate=False)
    yield gla_case((2, 64, 16), 2, normalizer=1)
    yield gla_case((1, 97, 24), 3)
    yield gla_case((1, 70, 16), 2, conv=True)
    yield gla_case((1, 97, 16), 4, kv_heads=2, normalizer=2, least=-0.5, activation="silu")
