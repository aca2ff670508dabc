# SPDX-License-Identifier: Apache-2.0
"""Element-wise decays of the whole state: layers of flash-linear-attention and transformers; where nobody's code
runs here, recurrences in PyTorch written from the equations of the papers."""

import fla_cpu
import torch
import torch.nn.functional as F
from fla.layers import hgrn
from fla.ops.hgrn.naive import naive_recurrent_hgrn
from oracle import Case, into, matrix, out_of, same, shaped, states
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer


def hgrn_op(x, g, **_):
    y, s = naive_recurrent_hgrn(x, g, output_final_state=True)
    states.append(s[:, None, :, None, None])  # (batch heads channel state part)
    return y, None


fla_cpu.ops(hgrn, chunk_hgrn=hgrn_op, fused_recurrent_hgrn=hgrn_op, swiglu=lambda x, y: F.silu(x) * y)


class Bounded(torch.nn.Module):
    """A layer with the lower bounds that their model hands to it."""

    def __init__(self, layer, layers, width):
        super().__init__()
        self.layer = layer
        self.lower_bounds = torch.nn.Parameter(torch.zeros(layers, width))

    def forward(self, x):
        bounds = self.lower_bounds.softmax(0)
        bounds = bounds.cumsum(0) - bounds[0]
        return self.layer(x, lower_bound=bounds[self.layer.layer_idx])


def hgrn_case(shape, ratio, layer, layers):
    e, d = shape[2], shape[2] * ratio
    module = hgrn.HGRNAttention(hidden_size=e, expand_ratio=ratio, layer_idx=layer, norm_eps=1e-5)
    weights = [(f"{n}_proj.weight", f"layer.{n}_proj.weight", matrix) for n in "ifgo"]
    return Case(
        name=f"hgrn_{shape[1]}", cls="lsm/hgrn", shape=shape, module=Bounded(module, layers, d),
        oracle="fla HGRNAttention over naive_recurrent_hgrn", layers=str(layer),
        sets=(f"expand_ratio={ratio}", f"model.layers={layers}", "norm_eps=1e-5"),
        weights=weights + [("g_norm.weight", "layer.g_norm.weight", same), ("lower_bounds", "lower_bounds", same)])


def mamba_case(shape, state, rank, expand=2):
    e = shape[2]
    config = MambaConfig(hidden_size=e, state_size=state, time_step_rank=rank, expand=expand, num_hidden_layers=1,
                         intermediate_size=e * expand)
    i = e * expand
    names = [("in_proj.weight", matrix), ("conv1d.weight", shaped(i, 4)), ("conv1d.bias", same),
             ("x_proj.weight", matrix), ("dt_proj.weight", matrix), ("dt_proj.bias", same), ("A_log", same),
             ("D", same), ("out_proj.weight", matrix)]
    return Case(
        name=f"mamba_{shape[1]}", cls="lsm/mamba", shape=shape, module=MambaMixer(config, 0).eval(),
        oracle="transformers MambaMixer", sets=(f"state={state}", f"dt_rank={rank}", f"expand={expand}"),
        weights=[(n, n, f) for n, f in names])


class S4D(torch.nn.Module):
    """Gu et al. 2022, arXiv 2206.11893: y = K * u + D u by its recurrence, then GELU and a gated linear map."""

    def __init__(self, channels, modes):
        super().__init__()
        self.log_dt = torch.nn.Parameter(torch.empty(channels).uniform_(-5, -1.5))
        self.C = torch.nn.Parameter(torch.randn(channels, modes, 2))
        self.log_A_real = torch.nn.Parameter(torch.zeros(channels, modes))
        self.A_imag = torch.nn.Parameter(torch.zeros(channels, modes))
        self.D = torch.nn.Parameter(torch.ones(channels))
        self.out = torch.nn.Linear(channels, 2 * channels)

    def forward(self, u):
        a = torch.complex(-self.log_A_real.exp(), self.A_imag)
        step = torch.exp(self.log_dt[:, None] * a)
        c = torch.view_as_complex(self.C) * (step - 1) / a
        h, y = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype), []
        for t in range(u.shape[1]):
            h = step * h + u[:, t, :, None]
            y.append(2 * (c * h).sum(-1).real + self.D * u[:, t])
        value, gate = self.out(F.gelu(torch.stack(y, 1))).chunk(2, -1)
        return value * gate.sigmoid()


def s4d_tame(name, w):
    if name == "log_A_real":
        w.copy_(torch.rand_like(w) * 1.5 - 1.5)
    if name == "A_imag":
        w.copy_(torch.pi * torch.arange(w.shape[1]).to(w) + 0.1 * torch.rand_like(w))


def s4d_case(shape, modes):
    e = shape[2]
    return Case(
        name=f"s4d_{shape[1]}", cls="lsm/s4d", shape=shape, module=S4D(e, modes), tame=s4d_tame,
        oracle="autograd of the recurrence (arXiv 2206.11893)", sets=(f"state={2 * modes}",),
        weights=[("kernel." + n, n, same) for n in ("log_dt", "C", "log_A_real", "A_imag")]
        + [("D", "D", same), ("output_linear.0.weight", "out.weight", matrix),
           ("output_linear.0.bias", "out.bias", same)])


class GateLoop(torch.nn.Module):
    """Katsch 2023, arXiv 2311.01927: S_t = a_t S_{t-1} + k_t v_t^T with one complex a_t for each head."""

    def __init__(self, embed, inner, heads):
        super().__init__()
        self.heads = heads
        self.to_qkv = torch.nn.Linear(embed, 3 * inner, bias=False)
        self.to_a = torch.nn.Linear(embed, 2 * heads)
        self.to_gates = torch.nn.Linear(embed, inner, bias=False)
        self.to_out = torch.nn.Linear(inner, embed, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (z.view(b, t, self.heads, -1) for z in self.to_qkv(x).chunk(3, -1))
        z = torch.view_as_complex(self.to_a(x).view(b, t, self.heads, 2))
        a = z.abs().sigmoid() * torch.exp(1j * z.angle())
        s, y = torch.zeros(b, self.heads, q.shape[-1], v.shape[-1], dtype=z.dtype), []
        for i in range(t):
            s = a[:, i, :, None, None] * s + k[:, i, :, :, None] * v[:, i, :, None]
            y.append((q[:, i, :, :, None] * s.real).sum(-2))
        return self.to_out(torch.stack(y, 1).flatten(2) * F.silu(self.to_gates(x)))


def gateloop_case(shape, heads, width):
    e, inner = shape[2], heads * width
    return Case(
        name=f"gateloop_{shape[1]}", cls="lsm/gateloop", shape=shape, module=GateLoop(e, inner, heads),
        oracle="autograd of the recurrence (arXiv 2311.01927)", sets=(f"heads={heads}", f"head_dim={width}"),
        weights=[("to_qkv.weight", "to_qkv.weight", matrix), ("to_a.0.weight", "to_a.weight", matrix),
                 ("to_a.0.bias", "to_a.bias", same), ("to_gates.weight", "to_gates.weight", matrix),
                 ("to_out.weight", "to_out.weight", matrix)])


def layer_norm(x, w, b, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + eps) * w + b


def inner_gradient(z, target, w, b):
    """d/dz of half the squared distance between the norm of z and the target; it is differentiated again."""
    loss = 0.5 * (layer_norm(z, w, b) - target).square().sum()
    return torch.autograd.grad(loss, z, create_graph=True)[0]


class TTT(torch.nn.Module):
    """Sun et al. 2024, arXiv 2407.04620: TTT-Linear, its inner gradients by autograd."""

    def __init__(self, embed, heads, batch, base_lr=1.0, rope=10000.0):
        super().__init__()
        d = embed // heads
        self.heads, self.batch, self.base_lr, self.rope = heads, batch, base_lr, rope
        for n in "qkvo":
            setattr(self, n + "_proj", torch.nn.Linear(embed, embed, bias=False))
        self.learnable_token_idx = torch.nn.Parameter(torch.zeros(batch))
        self.lr_weight = torch.nn.Parameter(torch.zeros(heads, embed))
        self.lr_bias = torch.nn.Parameter(torch.zeros(heads))
        self.W1 = torch.nn.Parameter(torch.zeros(heads, d, d))
        self.b1 = torch.nn.Parameter(torch.zeros(heads, d))
        self.norm_weight = torch.nn.Parameter(torch.ones(heads, d))
        self.norm_bias = torch.nn.Parameter(torch.zeros(heads, d))
        self.post_norm = torch.nn.LayerNorm(embed, eps=1e-6)

    def rotate(self, x):
        """Pairs (2 i, 2 i + 1) turn by the position within the mini-batch."""
        d, t = x.shape[-1], torch.arange(x.shape[2]) % self.batch
        angle = t[:, None] * self.rope ** (-torch.arange(0, d, 2) / d)
        z = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2)) * torch.exp(1j * angle)
        return torch.view_as_real(z).flatten(-2)

    def forward(self, x):
        heads, m = self.heads, self.batch
        q, k, v = (getattr(self, n + "_proj")(x).unflatten(-1, (heads, -1)).transpose(1, 2) for n in "qkv")
        q, k, d = self.rotate(q), self.rotate(k), q.shape[-1]
        rate = torch.sigmoid(torch.einsum("b t e, h e -> b h t", x, self.lr_weight) + self.lr_bias[:, None])
        rate = self.base_lr * rate / d
        share = torch.clamp(1 / torch.arange(1, m + 1) + self.learnable_token_idx, min=0)
        w, b = self.W1[None].expand(x.shape[0], -1, -1, -1), self.b1[None, :, None].expand(x.shape[0], -1, -1, -1)
        gamma, beta, y = self.norm_weight[:, None], self.norm_bias[:, None], []
        for at in range(0, x.shape[1], m):
            part = [a[:, :, at:at + m] for a in (q, k, v)]
            n = part[0].shape[2]
            eta = share[:n, None] * rate[:, :, None, at:at + n]
            grad = inner_gradient(part[1] @ w + b, part[2] - part[1], gamma, beta)
            causal = eta.tril()
            z = part[0] @ w - (causal * (part[0] @ part[1].transpose(-1, -2))) @ grad + b - causal @ grad
            y.append(part[0] + layer_norm(z, gamma, beta))
            last = eta[:, :, -1, :, None] * grad
            w, b = w - part[1].transpose(-1, -2) @ last, b - last.sum(-2, keepdim=True)
        y = torch.cat(y, 2).transpose(1, 2).flatten(2)
        return self.o_proj(self.post_norm(y))


def ttt_case(shape, heads, batch=16):
    names = [(f"{n}_proj.weight", f"{n}_proj.weight", into(heads)) for n in "qkv"] + [
        ("o_proj.weight", "o_proj.weight", out_of(heads)), ("learnable_token_idx", "learnable_token_idx", same),
        ("learnable_ttt_lr_weight", "lr_weight", same), ("learnable_ttt_lr_bias", "lr_bias", same),
        ("W1", "W1", same), ("b1", "b1", same), ("ttt_norm_weight", "norm_weight", same),
        ("ttt_norm_bias", "norm_bias", same), ("post_norm.weight", "post_norm.weight", shaped(heads, -1)),
        ("post_norm.bias", "post_norm.bias", shaped(heads, -1))]
    return Case(
        name=f"ttt_{shape[1]}", cls="lsm/ttt", shape=shape, module=TTT(shape[2], heads, batch), weights=names,
        oracle="autograd of the recurrence (arXiv 2407.04620)", sets=(f"heads={heads}", f"mini_batch={batch}"))


def cases():
    yield hgrn_case((2, 64, 16), 1, 0, 2)
    yield hgrn_case((1, 97, 12), 2, 2, 3)
    yield mamba_case((2, 64, 12), 6, 3)
    yield mamba_case((1, 97, 10), 16, 1)
    yield s4d_case((2, 64, 16), 4)
    yield s4d_case((1, 97, 12), 8)
    yield gateloop_case((2, 64, 16), 2, 8)
    yield gateloop_case((1, 97, 12), 3, 5)
    yield ttt_case((2, 64, 16), 2)
    yield ttt_case((1, 70, 12), 2)
