# SPDX-License-Identifier: Apache-2.0
"""Layers whose state learns: TTT-Linear and Titans, with the inner gradients taken by autograd."""

import torch
import torch.nn.functional as F
from oracle import Case, into, matrix, out_of, same, shaped

YES = {False: "no", True: "yes"}


def heads_of(x, heads):
    return x.unflatten(2, (heads, -1))


def turned(x, base, places):
    """x: (batch seq heads d); pairs (2 i, 2 i + 1) turn by the place in the mini-batch."""
    d, place = x.shape[-1], torch.arange(x.shape[1]) % places
    angle = place[:, None] * base ** (-torch.arange(0, d, 2) / d)
    turn = torch.polar(torch.ones_like(angle), angle)[None, :, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(3, (-1, 2)).contiguous()) * turn).flatten(3)


def norm(x, weight, bias):
    """Over the last axis; weight, bias: (heads d)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * weight + bias


class TTT(torch.nn.Module):
    """Token by token: gradients of a token's loss at the weights with which its mini-batch begins."""

    def __init__(self, width, heads, places, base_lr, share, gate):
        super().__init__()
        self.heads, self.places, self.base_lr, self.share, d = heads, places, base_lr, share, width // heads
        parameter, linear = torch.nn.Parameter, torch.nn.Linear
        self.q_proj, self.v_proj, self.o_proj = (linear(width, width, bias=False) for _ in range(3))
        if share:
            self.conv_q, self.conv_k = (torch.nn.Conv1d(width, width, 4, groups=width) for _ in range(2))
        else:
            self.k_proj = linear(width, width, bias=False)
        self.learnable_ttt_lr_weight = parameter(torch.zeros(heads, 1, width))
        self.learnable_ttt_lr_bias = parameter(torch.zeros(heads, 1))
        self.learnable_token_idx = parameter(torch.zeros(places))
        self.ttt_norm_weight, self.ttt_norm_bias = parameter(torch.ones(heads, d)), parameter(torch.zeros(heads, d))
        self.W1, self.b1 = parameter(torch.zeros(heads, d, d)), parameter(torch.zeros(heads, 1, d))
        self.post_norm = torch.nn.LayerNorm(width, eps=1e-6)
        self.g_proj = linear(width, width, bias=False) if gate else None

    def conv(self, x, conv):
        return conv(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2)

    def forward(self, x):
        d = x.shape[2] // self.heads
        q, v = self.q_proj(x), self.v_proj(x)
        q, k = (self.conv(q, self.conv_q), self.conv(q, self.conv_k)) if self.share else (q, self.k_proj(x))
        q, k, v = (heads_of(a, self.heads) for a in (q, k, v))
        q, k = turned(q, 10000.0, self.places), turned(k, 10000.0, self.places)
        lr = torch.einsum("bsc,hxc->bsh", x, self.learnable_ttt_lr_weight) + self.learnable_ttt_lr_bias[:, 0]
        lr = self.base_lr * lr.sigmoid() / d
        scale = (1 / torch.arange(1, self.places + 1) + self.learnable_token_idx).clamp_min(0)
        ln = self.ttt_norm_weight, self.ttt_norm_bias
        w = self.W1.expand(len(x), -1, -1, -1)
        b, y, steps = self.b1.expand(len(x), -1, -1, -1), [], 0
        for t in range(x.shape[1]):
            i = t % self.places
            if i == 0 and t > 0:
                w, b, steps = w - scale[-1] * steps[0], b - scale[-1] * steps[1], 0
            predicted = norm((k[:, t, :, None] @ w + b)[:, :, 0], *ln)
            loss = 0.5 * (predicted + k[:, t] - v[:, t]).square().sum()
            grads = [lr[:, t, :, None, None] * g for g in torch.autograd.grad(loss, (w, b), create_graph=True)]
            steps = [s + g for s, g in zip(steps, grads)] if steps else grads
            now = q[:, t, :, None] @ (w - scale[i] * steps[0]) + b - scale[i] * steps[1]
            y.append((q[:, t] + norm(now[:, :, 0], *ln)).flatten(1))
        y = self.post_norm(torch.stack(y, 1))
        if self.g_proj is not None:
            y = F.gelu(self.g_proj(x), approximate="tanh") * y
        return self.o_proj(y)


def ttt_case(shape, heads, places, base_lr=1.0, share=False, gate=False):
    h, d = heads, shape[2] // heads
    weights = [("q_proj.weight", into(h)), ("v_proj.weight", into(h)), ("o_proj.weight", matrix),
               ("learnable_ttt_lr_weight", lambda w: w[:, 0].T), ("learnable_ttt_lr_bias", shaped(h)),
               ("learnable_token_idx", same), ("ttt_norm_weight", same), ("ttt_norm_bias", same), ("W1", same),
               ("b1", same), ("post_norm.weight", same), ("post_norm.bias", same)]
    weights += [("g_proj.weight", matrix)] if gate else []
    weights += [("k_proj.weight", into(h))] if not share else [
        (f"conv_{n}.{p}", shaped(h, d, 4) if p == "weight" else shaped(h, d)) for n in "qk" for p in ("weight", "bias")]
    return Case(
        name=f"ttt_{shape[1]}", cls="lsm/ttt", shape=shape, module=TTT(shape[2], h, places, base_lr, share, gate),
        oracle="its equations, inner gradients by autograd",
        sets=(f"heads={h}", f"mini_batch={places}", f"base_lr={base_lr}", f"share_qk={YES[share]}",
              f"use_gate={YES[gate]}"),
        weights=[(n, n, f) for n, f in weights])


class Titans(torch.nn.Module):
    def __init__(self, width, heads, places, inner_norm, momentum):
        super().__init__()
        self.heads, self.places, self.inner_norm, d = heads, places, inner_norm, width // heads
        parameter, linear = torch.nn.Parameter, torch.nn.Linear
        for n in "qkvgo":
            setattr(self, f"{n}_proj", linear(width, width, bias=False))
        for n in "qkv":
            setattr(self, f"{n}_conv1d", torch.nn.Conv1d(width, width, 4, groups=width, bias=False))
        self.lr_proj, self.decay_proj = linear(width, heads), linear(width, heads)
        self.momentum_proj = linear(width, heads) if momentum else None
        self.memory = parameter(torch.zeros(heads, d, d))
        if inner_norm:
            self.memory_norm_weight = parameter(torch.ones(heads, d))
            self.memory_norm_bias = parameter(torch.zeros(heads, d))
        self.o_norm = parameter(torch.ones(d))

    def mixed(self, x, n):
        y = F.pad(getattr(self, f"{n}_proj")(x).transpose(1, 2), (3, 0))
        return heads_of(F.silu(getattr(self, f"{n}_conv1d")(y).transpose(1, 2)), self.heads)

    def forward(self, x):
        q, k, v = (self.mixed(x, n) for n in "qkv")
        q, k = (a * torch.rsqrt(a.square().sum(-1, keepdim=True) + 1e-6) for a in (q, k))
        theta, alpha = self.lr_proj(x).sigmoid(), self.decay_proj(x).sigmoid()
        eta = self.momentum_proj(x).sigmoid() if self.momentum_proj else torch.zeros_like(alpha)
        theta, alpha, eta = (a[..., None, None] for a in (theta, alpha, eta))
        m, s, y = self.memory.expand(len(x), -1, -1, -1), 0, []
        for t in range(x.shape[1]):
            w = m if t % self.places == 0 else w  # noqa: F821
            predicted = (k[:, t, :, None] @ w)[:, :, 0]
            if self.inner_norm:
                ln = self.memory_norm_weight, self.memory_norm_bias
                predicted = k[:, t] + norm(predicted, *ln)
            loss = (predicted - v[:, t]).square().sum()
            s = eta[:, t] * s - theta[:, t] * torch.autograd.grad(loss, w, create_graph=True)[0]
            m = (1 - alpha[:, t]) * m + s
            o = (q[:, t, :, None] @ m)[:, :, 0]
            y.append(o + norm(o, *ln) if self.inner_norm else o)
        y = torch.stack(y, 1)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * self.o_norm
        return self.o_proj((y * F.silu(heads_of(self.g_proj(x), self.heads))).flatten(2))


def titans_case(shape, heads, places, inner_norm=False, momentum=True):
    h, d = heads, shape[2] // heads
    weights = [(f"{n}_proj.weight", f"{n}_proj.weight", into(h)) for n in "qkvg"]
    weights += [(f"{n}_conv1d.weight", f"{n}_conv1d.weight", shaped(h, d, 4)) for n in "qkv"]
    for n in ("lr", "decay") + (("momentum",) if momentum else ()):
        weights += [(f"{n}_proj.weight", f"{n}_proj.weight", matrix), (f"{n}_proj.bias", f"{n}_proj.bias", same)]
    weights += [("memory.weight", "memory", same), ("o_norm.weight", "o_norm", same),
                ("o_proj.weight", "o_proj.weight", out_of(h))]
    if inner_norm:
        weights += [(f"memory_norm.{p}", f"memory_norm_{p}", same) for p in ("weight", "bias")]

    def tame(name, p):
        if inner_norm and name == "lr_proj.bias":
            p -= 3  # steps behind a norm are larger: with great ones rounding errors grow from token to token
        if inner_norm and name == "memory":
            p *= 2

    return Case(
        name=f"titans_{'norm_' if inner_norm else ''}{shape[1]}", cls="lsm/titans", shape=shape,
        module=Titans(shape[2], h, places, inner_norm, momentum), tame=tame, oracle="its equations, inner gradients by autograd",
        sets=(f"heads={h}", f"mini_batch={places}", f"inner_norm={YES[inner_norm]}", f"momentum={YES[momentum]}"),
        weights=weights)


def cases():
    yield ttt_case((2, 64, 16), 2, 16)
    yield ttt_case((1, 97, 16), 2, 16, base_lr=0.5, share=True, gate=True)
    yield ttt_case((1, 37, 12), 3, 5)
    yield titans_case((2, 64, 16), 2, 16)
    yield titans_case((1, 91, 16), 2, 16, inner_norm=True)
    yield titans_case((1, 37, 12), 3, 5, momentum=False)
