# SPDX-License-Identifier: Apache-2.0
"""Layers with several states. Their published classes need a GPU, so the layers are written from the equations around
flash-linear-attention's naive references: log-linear attention over its matrix of levels, mixture of memories over the
recurrences, which really run on each memory's own tokens."""

import fla_cpu
import torch
import torch.nn.functional as F
from cases.linear import projections
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.log_linear_attn.naive import naive_log_linear_attn
from oracle import Case, into, matrix, out_of, same, shaped


class LogLinear(torch.nn.Module):
    def __init__(self, e, head_dim, state, levels):
        super().__init__()
        self.inner, self.state, self.levels = 2 * e, state, levels
        self.heads = self.inner // head_dim
        mixed = self.inner + 2 * state
        self.in_proj = torch.nn.Linear(e, self.inner + mixed + self.heads * (1 + levels), bias=False)
        self.conv1d = torch.nn.Conv1d(mixed, mixed, 4, groups=mixed, padding=3)
        self.dt_bias = torch.nn.Parameter(torch.zeros(self.heads) - 2)
        self.A_log = torch.nn.Parameter(torch.zeros(self.heads))
        self.L = torch.nn.Parameter(torch.ones(self.heads, levels))
        self.D = torch.nn.Parameter(torch.ones(self.heads))
        self.norm = torch.nn.Parameter(torch.ones(self.inner))
        self.out_proj = torch.nn.Linear(self.inner, e, bias=False)

    def forward(self, u):
        h, n = self.heads, u.shape[1]
        z, xbc, dt, dl = self.in_proj(u).split(
            [self.inner, self.inner + 2 * self.state, h, h * self.levels], -1)
        xbc = F.silu(self.conv1d(xbc.transpose(1, 2))[..., :n].transpose(1, 2))
        x, b, c = xbc.split([self.inner, self.state, self.state], -1)
        x, dt = x.unflatten(-1, (h, -1)), F.softplus(dt + self.dt_bias)
        scales = F.softplus(dl.unflatten(-1, (h, -1)) * self.L)
        y = naive_log_linear_attn(c[:, :, None], b[:, :, None], x * dt[..., None], -self.A_log.exp() * dt, scales)
        y = (y + x * self.D[:, None]).flatten(2)
        return self.out_proj(fla_cpu.rms(y * F.silu(z), self.norm, 1e-5))


def log_linear(shape, head_dim, state, levels):
    weights = [("in_proj.weight", "in_proj.weight", matrix), ("conv1d.weight", "conv1d.weight", lambda w: w[:, 0]),
               ("conv1d.bias", "conv1d.bias", same), ("norm.weight", "norm", same),
               ("out_proj.weight", "out_proj.weight", matrix)]
    return Case(
        name=f"log_linear_{shape[1]}", cls="lsm/log_linear", shape=shape,
        module=LogLinear(shape[2], head_dim, state, levels), oracle="fla naive_log_linear_attn in the layer's equations",
        sets=(f"head_dim={head_dim}", f"state={state}", f"levels={levels}"),
        weights=weights + [(n, n, same) for n in ("dt_bias", "A_log", "L", "D")])


class Memories(torch.nn.Module):
    def __init__(self, e, heads, d, memories, top_k, shared, gla):
        super().__init__()
        self.heads, self.memories, self.top_k, self.shared, self.gla = heads, memories, top_k, shared, gla

        def linear(n, bias=False):
            return torch.nn.Linear(e, n, bias=bias)

        def per_memory(make):
            return torch.nn.ModuleList(make() for _ in range(memories + shared))

        width = heads * d
        self.gate, self.q_proj, self.g_proj = linear(memories), linear(width), linear(width)
        self.k_proj, self.v_proj = per_memory(lambda: linear(width)), per_memory(lambda: linear(width))
        if gla:
            self.gk_proj = per_memory(lambda: torch.nn.Sequential(linear(3), torch.nn.Linear(3, width)))
        else:
            self.a_proj, self.b_proj = per_memory(lambda: linear(heads)), per_memory(lambda: linear(heads))
            self.A_log = torch.nn.Parameter(torch.zeros(heads))
            self.dt_bias = torch.nn.Parameter(torch.zeros(heads))
        for n in "qkv":
            setattr(self, n + "_conv", torch.nn.Parameter(torch.zeros(width, 4)))
        self.norm = torch.nn.Parameter(torch.ones(d))
        self.o_proj = torch.nn.Linear(width, e, bias=False)

    def conv(self, x, n):
        w = getattr(self, n + "_conv")[:, None]
        return F.silu(F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), w, groups=x.shape[-1]).transpose(1, 2))

    def memory(self, m, x):
        """Memory m over all the tokens x (1, tokens, embed)."""
        q, k, v = (self.conv(p(x), n).unflatten(-1, (self.heads, -1))
                   for n, p in (("q", self.q_proj), ("k", self.k_proj[m]), ("v", self.v_proj[m])))
        if self.gla:
            g = F.logsigmoid(self.gk_proj[m](x)).div(16).unflatten(-1, (self.heads, -1))
            return naive_recurrent_gla(q, k, v, g)[0]
        g = -self.A_log.exp() * F.softplus(self.a_proj[m](x) + self.dt_bias)
        return naive_recurrent_gated_delta_rule(
            fla_cpu.l2norm(q), fla_cpu.l2norm(k), v, self.b_proj[m](x).sigmoid(), g)[0]

    def forward(self, x):
        best, index = self.gate(x).softmax(-1).topk(self.top_k, -1)
        best = best / best.sum(-1, keepdim=True)
        rows = []
        for b in range(x.shape[0]):
            y = torch.zeros(x.shape[1], self.heads, self.norm.shape[0])
            for m in range(self.memories):
                t, choice = (index[b] == m).nonzero(as_tuple=True)
                if len(t):
                    y = y.index_add(0, t, self.memory(m, x[b : b + 1, t])[0] * best[b, t, choice][:, None, None])
            if self.shared:
                y = y + self.memory(self.memories, x[b : b + 1])[0]
            rows.append(y)
        y = fla_cpu.rms(torch.stack(rows), self.norm, 1e-5) * F.silu(self.g_proj(x).unflatten(-1, (self.heads, -1)))
        return self.o_proj(y.flatten(2))


def mom(shape, heads, d, memories, top_k, shared=True, gla=False):
    weights = [("gate.weight", "gate.weight", matrix), ("o_norm.weight", "norm", same)]
    weights += projections(heads, "q", "g", "o")
    weights += [(f"{n}_conv1d.weight", f"{n}_conv", shaped(heads, d, 4)) for n in "qkv"]
    weights += [] if gla else [("A_log", "A_log", same), ("dt_bias", "dt_bias", same)]
    for m in range(memories + shared):
        last = m == memories
        for n in "kv" if gla else "kvab":
            layout = matrix if n in "ab" else into(heads)
            weights.append((f"shared_{n}.weight" if last else f"{n}_proj.{m}.weight", f"{n}_proj.{m}.weight", layout))
        if gla:
            name = "shared_gk" if last else f"gk_proj.{m}"
            weights += [(name + ".0.weight", f"gk_proj.{m}.0.weight", matrix),
                        (name + ".1.weight", f"gk_proj.{m}.1.weight", into(heads)),
                        (name + ".1.bias", f"gk_proj.{m}.1.bias", shaped(heads, d))]
    rule = "naive_recurrent_gla" if gla else "naive_recurrent_gated_delta_rule"
    return Case(
        name=f"mom_{'gla_' if gla else ''}{shape[1]}", cls="lsm/mom", shape=shape,
        module=Memories(shape[2], heads, d, memories, top_k, shared, gla),
        oracle=f"fla {rule} on each memory's tokens",
        sets=(f"heads={heads}", f"head_dim={d}", f"memories={memories}", f"top_k={top_k}", "aux_loss=0",
              f"shared={'yes' if shared else 'no'}") + (("memory=gla", "low_rank=3") if gla else ()),
        weights=weights)


def cases():
    yield log_linear((2, 64, 16), 8, 6, 7)
    yield log_linear((1, 97, 16), 16, 5, 8)
    yield mom((2, 64, 12), 2, 5, 3, 2)
    yield mom((1, 97, 12), 2, 4, 4, 3, shared=False)
    yield mom((1, 70, 12), 2, 4, 3, 2, gla=True)
