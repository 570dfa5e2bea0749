"""Values with a derivative of their own: what an activation does to a gradient, worked out once for many products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Sloped(torch.autograd.Function):
    """A value whose derivative is the slope; as a function of its own, many products go through in one operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.dtype = x.dtype
        return value.clone()  # models change results in place, which views forbid

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad * slope).to(ctx.dtype), None, None


def with_slope(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """A copy of the value, with the slope as derivative with respect to x (all of one shape)."""
    return _Sloped.apply(x, value, slope)  # type: ignore[no-untyped-call]


def activations() -> set[type[nn.Module]]:
    """Activation modules of torch and transformers that are one elementwise function, whatever they are made of."""
    from transformers.activations import ACT2CLS

    names = """ReLU ReLU6 ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Softplus LeakyReLU Hardtanh Hardswish Hardsigmoid
    LogSigmoid Softsign Tanhshrink Softshrink Hardshrink PReLU Threshold"""
    own = {c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()}
    return own | {getattr(nn, name) for name in names.split()}
