# SPDX-License-Identifier: Apache-2.0
"""flash-linear-attention's layers on a machine without a GPU.

The layer classes are theirs. What they launch as Triton kernels is replaced: recurrences by their
own naive references (a case file does that, with `ops`), norms, convolutions and rotations by the
formulae below. Importing this file must come before anything of fla.
"""

import warnings

import torch
import torch.nn.functional as F
import triton


class _NoDevice:
    """Stands in for a GPU's driver, which kernels ask for when they are defined."""

    def get_benchmarker(self):
        return lambda *a, **k: None

    def __getattr__(self, name):
        raise RuntimeError("there is no device")


triton.runtime.driver.set_active(_NoDevice())
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import fla.layers  # noqa: F401
    import fla.modules as modules
    from fla.modules import activations
    from fla.modules.causal_conv1d import ops as convolution
    from fla.modules.norm import fused_norm_gate, layernorm
    from fla.modules import feature_map

ACT = {
    "swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid, "gelu": F.gelu, "relu": F.relu,
    "elu": F.elu, "logsigmoid": F.logsigmoid, "identity": lambda x: x, None: lambda x: x,
}


def ops(module, **functions):
    """Puts other functions under the names that a layer's file has imported."""
    for name, function in functions.items():
        assert hasattr(module, name), f"{module.__name__} has no {name}"
        setattr(module, name, function)


def rms(x, weight, eps, bias=None):
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rmsnorm(self, x, residual=None, prenorm=False, residual_in_fp32=False):
    assert residual is None and not prenorm
    return rms(x, self.weight, self.eps, self.bias)


def _rmsnorm_gated(self, x, g, residual=None, prenorm=False, residual_in_fp32=False):
    assert residual is None and not prenorm
    return rms(x, self.weight, self.eps, getattr(self, "bias", None)) * ACT[self.activation](g)


def _layernorm(self, x, residual=None, prenorm=False, residual_in_fp32=False):
    assert residual is None and not prenorm
    return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def _groupnorm(self, x, residual=None, prenorm=False, residual_in_fp32=False):
    assert residual is None and not prenorm
    shape = x.shape
    x = x.reshape(*shape[:-1], self.num_groups, -1)
    if self.is_rms_norm:
        x = rms(x, None, self.eps)
    else:
        x = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + self.eps)
    x = x.reshape(shape)
    x = x if self.weight is None else x * self.weight
    return x if self.bias is None else x + self.bias


def _short_conv(self, x, residual=None, mask=None, cache=None, output_final_state=False, cu_seqlens=None, **_):
    assert residual is None and mask is None and cache is None and cu_seqlens is None
    y = F.conv1d(F.pad(x.transpose(1, 2), (self.kernel_size[0] - 1, 0)), self.weight, self.bias,
                 groups=x.shape[-1])
    return ACT[self.activation](y.transpose(1, 2)), None


def rotate(x, base=10000.0, width=None):
    """x: (batch seq heads d); pairs (i, i + width / 2) turn by position / base^(2 i / width)."""
    d = width or x.shape[-1]
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * base ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    a, b, rest = x[..., : d // 2], x[..., d // 2 : d], x[..., d:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


def _rotary(self, q, k, seqlen_offset=0, cu_seqlens=None, max_seqlen=None, **_):
    assert not self.interleaved and self.scale is None
    return rotate(q, self.base, self.dim), rotate(k, self.base, self.dim)


def l2norm(x, eps=1e-6, output_dtype=None):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def rms_norm_linear(x, norm_weight, norm_bias, linear_weight, linear_bias, eps=1e-5, **_):
    return F.linear(rms(x, norm_weight, eps, norm_bias), linear_weight, linear_bias)


layernorm.RMSNorm.forward = _rmsnorm
layernorm.LayerNorm.forward = _layernorm
layernorm.GroupNorm.forward = _groupnorm
fused_norm_gate.FusedRMSNormGated.forward = _rmsnorm_gated
convolution.ShortConvolution.forward = _short_conv
modules.RotaryEmbedding.forward = _rotary
for table in {id(t): t for t in (activations.ACT2FN,)}.values():
    table.update({k: f for k, f in ACT.items() if k in table})
