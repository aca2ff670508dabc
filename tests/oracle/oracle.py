# SPDX-License-Identifier: Apache-2.0
"""Computes what other people's code makes of small inputs, and stores it for tests/oracle/test_oracle.c.

    python tests/oracle/oracle.py [--out FOLDER] [WORD ...]    cases whose name holds one of the words; none: all

Each file of cases/ has a function cases() that gives Case objects; each case becomes one file
data/NAME.safetensors: inputs and weights in float32 (so that a computation in either dtype has the
same ones), outputs, carries and gradients in float64, and how to run the layer in the metadata.
"""

import contextlib
import dataclasses
import importlib
import pathlib
import sys
import zlib

import numpy
import torch
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Case:
    name: str  # "gla_short_conv_97": of the file
    cls: str  # "lsm/gla"
    oracle: str  # who computes, for people
    shape: tuple  # (batch, seq, embed)
    module: object  # torch module: called with x, gives y, or (y, ...)
    weights: list  # (our name, name of the module's parameter, function from its layout to ours)
    sets: tuple = ()  # options: "heads=2"
    carry: tuple = ()  # names of the carries that the module appended to `states`, in order
    reset: tuple = ()  # tokens at which documents start
    layers: str = ""  # --layers
    fixed: tuple = ()  # (our name, tensor): weights whose values matter, in our layout's order
    tokens: object = None  # (batch, seq) ids
    scale: float = 1.0  # deviation of x
    tame: object = None  # function(name, tensor): changes drawn weights in place
    dtype: object = torch.float64  # of the oracle: float32 where it cannot do better


losses = []  # (name, scalar): auxiliary losses of the module that runs, which its gradients include
states = []  # final carries of the module that runs, in our layout; an oracle appends to it


# ---- layouts: a Linear's weight is (out, in); ours are by named axes ----


def matrix(w):
    """Linear -> (in, out)"""
    return w.T


def into(heads):
    """Linear to heads -> (embed heads head)"""
    return lambda w: w.T.reshape(w.shape[1], heads, -1)


def out_of(heads):
    """Linear from heads -> (heads head embed)"""
    return lambda w: w.T.reshape(heads, -1, w.shape[0])


def shaped(*dim):
    """The same numbers in the same order"""
    return lambda w: w.reshape(*dim)


def same(w):
    return w


# ---- running ----


@contextlib.contextmanager
def widened():
    """Code that lifts to float32 lifts to float64: `.float()`, `torch.float32`, `torch.float`."""
    kept = torch.Tensor.float, torch.float32, torch.float
    torch.Tensor.float = torch.Tensor.double
    torch.float32 = torch.float = torch.float64
    try:
        yield
    finally:
        torch.Tensor.float, torch.float32, torch.float = kept


def draw(case, generator):
    """Weights that a training might reach: no zeros, norms near 1; exact in float32."""
    fixed = dict(case.fixed)
    for name, p in case.module.named_parameters():
        if name in fixed:
            p.data = torch.as_tensor(fixed[name]).to(p).reshape(p.shape)
        elif p.ndim > 1:
            p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.shape[-1] ** -0.5
        else:
            p.data = p.data + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if case.tame:
            case.tame(name, p.data)
        p.data = p.data.to(torch.float32).to(p.dtype)


def run(case):
    torch.manual_seed(zlib.crc32(case.name.encode()))
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    case.module.to(case.dtype)
    draw(case, generator)

    def normal():
        return torch.randn(case.shape, generator=generator, dtype=torch.float32)

    x, dy = (normal() * case.scale).to(case.dtype).requires_grad_(), normal()
    states.clear()
    losses.clear()
    context = widened() if case.dtype is torch.float64 else contextlib.nullcontext()
    with context:
        y = case.module(x)
        y = y[0] if isinstance(y, tuple) else y
    sum([(y * dy.to(y.dtype)).sum()] + [loss for _, loss in losses]).backward()

    out = {"x": x.detach().float(), "dy": dy, "y": y.detach(), "dx": x.grad}
    parameters = dict(case.module.named_parameters())
    mapped = {theirs for _, theirs, _ in case.weights}
    assert set(parameters) == mapped, f"{case.name}: unmapped {set(parameters) ^ mapped}"
    for ours, theirs, layout in case.weights:
        p = parameters[theirs]
        grad = p.grad if p.grad is not None else torch.zeros_like(p)
        out["w:" + ours] = layout(p.data).float()
        out["dw:" + ours] = layout(grad)
    assert len(states) >= len(case.carry), f"{case.name}: {len(states)} carries were recorded"
    for name, state in zip(case.carry, states):
        out[name] = state.detach()
    out.update({"aux:" + name: loss.detach() for name, loss in losses})
    arrays = {k: numpy.array(v.numpy(), order="C") for k, v in out.items()}
    if case.tokens is not None:
        arrays["tokens"] = numpy.asarray(case.tokens, dtype=numpy.int32)
    for k, v in arrays.items():
        assert numpy.isfinite(v).all(), f"{case.name}: {k} is not finite"
    return arrays


def store(case, folder):
    metadata = {
        "class": case.cls,
        "oracle": case.oracle,
        "set": "\n".join(case.sets),
        "reset": ",".join(map(str, case.reset)),
        "layers": case.layers,
        "precision": "f64" if case.dtype is torch.float64 else "f32",
    }
    path = folder / f"{case.name}.safetensors"
    save_file(run(case), path, metadata=metadata)
    print(f"{path.stat().st_size:8d}  {case.name}", flush=True)


def main(words):
    sys.modules["oracle"] = sys.modules["__main__"]
    sys.path.insert(0, str(HERE))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    names, folder = set(), HERE / "data"
    if words[:1] == ["--out"]:
        folder, words = pathlib.Path(words[1]), words[2:]
    for path in sorted((HERE / "cases").glob("*.py")):
        for case in importlib.import_module("cases." + path.stem).cases():
            assert case.name not in names, f"{case.name} is there twice"
            names.add(case.name)
            if not words or any(w in case.name for w in words):
                store(case, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
