# SPDX-License-Identifier: Apache-2.0
"""Layers whose state is learnt by gradient steps: recurrences in PyTorch written from the equations of the papers."""

import torch
from oracle import Case, into, out_of, same, shaped


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
    yield ttt_case((2, 64, 16), 2)
    yield ttt_case((1, 70, 12), 2)
