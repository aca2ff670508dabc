# SPDX-License-Identifier: Apache-2.0
"""Layers over a recurrence whose state fades element by element: HGRN, Mamba, S4D, GateLoop."""

import fla_cpu
import torch
import torch.nn.functional as F
from fla.layers import hgrn
from fla.ops.hgrn.naive import naive_recurrent_hgrn
from oracle import Case, matrix, same, shaped, states
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

YES = {False: "no", True: "yes"}


def hgrn_op(x, g, **_):
    y, h = naive_recurrent_hgrn(x, g, output_final_state=True)
    states.append(h[..., None, None])  # (batch channel state part)
    return y, None


fla_cpu.ops(hgrn, chunk_hgrn=hgrn_op, fused_recurrent_hgrn=hgrn_op, swiglu=lambda x, y: F.silu(x) * y)


class WithBounds(torch.nn.Module):
    """HGRN's layer with the lower bounds that its model computes for it."""

    def __init__(self, layer, layers):
        super().__init__()
        self.layer, self.lower_bounds = layer, torch.nn.Parameter(torch.zeros(layers, layer.input_dim))

    def forward(self, x):
        p = self.lower_bounds.softmax(0)
        bound = (p.cumsum(0) - p[0])[self.layer.layer_idx]
        return self.layer(x, lower_bound=bound)[0]


def hgrn_case(shape, index, expand=1, conv=False):
    layer = hgrn.HGRNAttention(hidden_size=shape[2], expand_ratio=expand, use_short_conv=conv, layer_idx=index)
    weights = [(f"{n}_proj.weight", f"layer.{n}_proj.weight", matrix) for n in "ifgo"]
    weights += [("g_norm.weight", "layer.g_norm.weight", same), ("lower_bounds", "lower_bounds", same)]
    if conv:
        weights += [(f"{n}_conv1d.weight", f"layer.{n}_conv1d.weight", lambda w: w[:, 0]) for n in "if"]
    return Case(
        name=f"hgrn_layer{index}_{shape[1]}", cls="lsm/hgrn", shape=shape, module=WithBounds(layer, index + 1),
        oracle="fla HGRNAttention over naive_recurrent_hgrn", layers=str(index),
        sets=(f"expand={expand}", f"short_conv={YES[conv]}"), carry=(f"carry/{index}/{2 if conv else 0}/carry",),
        weights=weights)


class Mixer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixer = MambaMixer(config, 0).eval()

    def forward(self, x):
        return self.mixer.eval()(x)


def mamba_case(shape, state, rank, bias=False, conv_bias=True, fast=0):
    config = MambaConfig(
        hidden_size=shape[2], state_size=state, time_step_rank=rank, expand=2, conv_kernel=4, use_bias=bias,
        use_conv_bias=conv_bias, num_hidden_layers=1, use_mambapy=False)
    weights = [("in_proj.weight", matrix), ("conv1d.weight", lambda w: w[:, 0]), ("x_proj.weight", matrix),
               ("dt_proj.weight", matrix), ("dt_proj.bias", same), ("A_log", same), ("D", same),
               ("out_proj.weight", matrix)]
    weights += [("in_proj.bias", same), ("out_proj.bias", same)] if bias else []
    weights += [("conv1d.bias", same)] if conv_bias else []

    def tame(name, p):
        if name.endswith("dt_proj.bias"):
            p += fast  # steps so large that most states fade at once

    return Case(
        name=f"mamba_{'fast_' if fast else ''}{shape[1]}", cls="lsm/mamba", shape=shape, module=Mixer(config),
        oracle="transformers MambaMixer", tame=tame,
        sets=(f"state={state}", f"dt_rank={rank}", f"bias={YES[bias]}", f"conv_bias={YES[conv_bias]}"),
        weights=[(n, "mixer." + n, f) for n, f in weights])


class S4D(torch.nn.Module):
    """By its convolution kernel, as published: K[l] = 2 Re sum_n C (exp(dt A) - 1) / A exp(dt A)^l."""

    def __init__(self, width, modes):
        super().__init__()
        self.log_dt = torch.nn.Parameter(torch.linspace(-6, -2, width))
        self.C = torch.nn.Parameter(torch.zeros(width, modes, 2))
        self.log_A_real = torch.nn.Parameter(torch.zeros(width, modes))
        self.A_imag = torch.nn.Parameter(torch.zeros(width, modes))
        self.D = torch.nn.Parameter(torch.ones(width))
        self.linear = torch.nn.Linear(width, 2 * width)

    def forward(self, x):
        seq = x.shape[1]
        a = torch.complex(-self.log_A_real.exp(), self.A_imag)
        z = a * self.log_dt.exp()[:, None]
        c = torch.view_as_complex(self.C) * (z.exp() - 1) / a
        kernel = 2 * torch.einsum("cn,cnl->cl", c, (z[..., None] * torch.arange(seq)).exp()).real
        lag = torch.arange(seq)[:, None] - torch.arange(seq)
        y = torch.einsum("cts,bsc->btc", kernel[:, lag.clamp(min=0)] * (lag >= 0), x)
        return F.glu(self.linear(F.gelu(y + self.D * x)))


def s4d_case(shape, state):
    def tame(name, p):
        if name == "A_imag":
            p += torch.pi * torch.arange(p.shape[1])

    weights = [("kernel." + n, n, same) for n in ("log_dt", "C", "log_A_real", "A_imag")] + [
        ("D", "D", same), ("output_linear.0.weight", "linear.weight", matrix),
        ("output_linear.0.bias", "linear.bias", same)]
    return Case(
        name=f"s4d_{shape[1]}", cls="lsm/s4d", shape=shape, module=S4D(shape[2], state // 2), tame=tame,
        oracle="the convolution of its equation", sets=(f"state={state}",), weights=weights)


class GateLoop(torch.nn.Module):
    """Complex states, token by token."""

    def __init__(self, width, heads, sub_norm):
        super().__init__()
        self.heads = heads
        self.to_qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.to_a = torch.nn.Linear(width, 2 * heads)
        self.maybe_sub_ln = torch.nn.LayerNorm(width) if sub_norm else torch.nn.Identity()
        self.to_gates = torch.nn.Linear(width, width, bias=False)
        self.to_out = torch.nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (a.unflatten(2, (self.heads, -1)) for a in self.to_qkv(x).chunk(3, -1))
        z = torch.view_as_complex(self.to_a(x).unflatten(2, (self.heads, 2)))
        a = torch.polar(z.abs().sigmoid(), z.angle())[..., None, None]
        s, y = 0, []
        for t in range(x.shape[1]):
            s = a[:, t] * s + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
            y.append(torch.einsum("bhk,bhkv->bhv", q[:, t], s.real))
        states.append(torch.view_as_real(s.transpose(2, 3)))  # (batch heads head_v head_k part)
        if self.heads == x.shape[2]:
            states[-1] = states[-1][:, :, 0]
        y = self.maybe_sub_ln(torch.stack(y, 1).flatten(2))
        return self.to_out(F.silu(self.to_gates(x)) * y)


def gateloop_case(shape, heads, sub_norm=False):
    weights = [("to_qkv.weight", "to_qkv.weight", matrix), ("to_gates.0.weight", "to_gates.weight", matrix),
               ("to_out.weight", "to_out.weight", matrix),
               ("to_a.0.weight", "to_a.weight", lambda w: w.T.reshape(shape[2], heads, 2)),
               ("to_a.0.bias", "to_a.bias", shaped(heads, 2))]
    if sub_norm:
        weights += [(f"maybe_sub_ln.{n}", f"maybe_sub_ln.{n}", same) for n in ("weight", "bias")]
    return Case(
        name=f"gateloop_{heads}_heads_{shape[1]}", cls="lsm/gateloop", shape=shape,
        module=GateLoop(shape[2], heads, sub_norm), oracle="the recurrence of its equation",
        sets=(f"heads={heads}", f"sub_norm={YES[sub_norm]}"), carry=("carry/0/0/carry",), weights=weights)


def cases():
    yield hgrn_case((2, 64, 16), 0)
    yield hgrn_case((1, 97, 16), 2, expand=2)
    yield hgrn_case((1, 70, 16), 1, conv=True)
    yield mamba_case((2, 64, 12), 16, 3)
    yield mamba_case((1, 97, 16), 5, 2, bias=True, conv_bias=False)
    yield mamba_case((1, 70, 16), 8, 1, fast=20)
    yield s4d_case((2, 64, 16), 8)
    yield s4d_case((1, 97, 16), 16)
    yield gateloop_case((2, 64, 16), 16)
    yield gateloop_case((1, 97, 16), 4, sub_norm=True)
