"""Forward passes whose backward is cheap to run many times: local derivatives are computed once and shared.

The products of all steps go through the same graph at the same point, so what an activation function or a
normalisation does to a gradient need not be worked out again for each of them: every activation becomes one
multiplication by its slope, every layer norm a few row operations. PyTorch's own backward formulas of these recompute
the derivative for every product, and some of them have no batched form at all. The gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.engine.last_block import LastBlock
from attriflow.kernels.attention import Operands
from attriflow.kernels.recomputed import recomputed, recomputes
from attriflow.kernels.slopes import activations, with_slope

_NORMS = (torch.nn.functional.layer_norm, torch.layer_norm)
_ELEMENTWISE = (
    torch.nn.functional.gelu,
    torch.nn.functional.silu,
    torch.nn.functional.relu,
    torch.nn.functional.softplus,
    torch.nn.functional.elu,
    torch.nn.functional.leaky_relu,
    torch.tanh,
    torch.sigmoid,
    torch.relu,
    torch.erf,
    Tensor.tanh,
    Tensor.sigmoid,
    Tensor.relu,
    Tensor.erf,
)


class _LayerNorm(torch.autograd.Function):
    """Layer norm over the last axis, its backward written as row operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        out, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        mean, scale = _wide(mean), _wide(scale)
        ctx.save_for_backward((x - mean) * scale, scale if weight is None else scale * weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        unit, scale = ctx.saved_tensors
        # only operations that have a batched form: others are done product by product (mean, addcmul)
        g, n = grad * scale, unit.shape[-1]
        along = (g * unit).sum(-1, keepdim=True) * (1 / n)
        out = g - g.sum(-1, keepdim=True) * (1 / n) - unit * along
        return out.to(grad.dtype), None, None, None


class _Mode(TorchFunctionMode):
    def __init__(self, attention_bytes: float, last: LastBlock | None) -> None:
        super().__init__()
        self.attention_bytes, self.last = attention_bytes, last

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor) and x.requires_grad:
            if func is torch.nn.functional.scaled_dot_product_attention:
                return _attention(self.attention_bytes, self.last, func, args, kwargs)
            if func in _NORMS:
                return _layer_norm(func, args, kwargs)
            if func in _ELEMENTWISE and not kwargs.get("inplace", False):
                return _elementwise(func, x, args, kwargs)
        return func(*args, **kwargs)


def _elementwise(func: Any, x: Tensor, args: Any, kwargs: Any) -> Tensor:
    leaf = _wide(x.detach()).requires_grad_(True)
    value = func(leaf, *args[1:], **kwargs) if args else func(**{**kwargs, "input": leaf})
    (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return with_slope(x, value.detach().to(x.dtype), slope)


def _wide(x: Tensor) -> Tensor:
    """At least single precision: local derivatives are worked out as PyTorch's own formulas do for half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    plain = len(tuple(given["normalized_shape"])) == 1 and all(
        p is None or (not p.requires_grad and p.dtype == x.dtype) for p in (weight, bias)
    )
    if not plain:
        return func(*args, **kwargs)
    return _LayerNorm.apply(x, weight, bias, given.get("eps", 1e-5))  # type: ignore[no-untyped-call]


def _attention(limit: float, last: LastBlock | None, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Attention as matrix products and a softmax, where the weights are small enough to be kept; else made again.

    In half precision the fused kernel keeps more digits between its steps.
    """
    call = Operands.of(args, kwargs)
    if last is not None and last.inside and not call.dropout_p:
        return last.attend(call)
    size = call.query.shape[:-1].numel() * call.key.shape[-2] * call.query.element_size()
    if size > limit and recomputes(call):
        return recomputed(call, func, args, kwargs)
    if call.dropout_p or size > limit or call.query.dtype in (torch.bfloat16, torch.float16):
        return func(*args, **kwargs)  # type: ignore[no-any-return]
    return call.written_out()


def _activation_hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    x = inputs[0] if inputs else None
    if not (isinstance(x, Tensor) and isinstance(output, Tensor) and x.requires_grad and output.shape == x.shape):
        return None
    if not output.requires_grad or output is x:
        return None
    wide = _wide(x.detach())
    if wide.dtype != x.dtype:
        leaf = wide.requires_grad_(True)
        (slope,) = torch.autograd.grad(module.forward(leaf), leaf, torch.ones_like(wide))
    else:
        (slope,) = torch.autograd.grad(output, x, torch.ones_like(output))
    return with_slope(x, output.detach(), slope)


@contextmanager
def linearised(hf: Any, attention_bytes: float, last: LastBlock | None = None) -> Iterator[None]:
    """Run the model with shared local derivatives.

    Args:
        hf: The model, frozen (parameters without gradients) and in evaluation mode.
        attention_bytes: Compute attention as plain matrix products, whose backward runs for many products at once,
            where the weights of a layer take no more than this.
        last: Computes the attention of the last block.
    """
    classes = tuple(activations())
    with ExitStack() as stack:
        for module in hf.modules():
            if isinstance(module, classes):
                stack.callback(module.register_forward_hook(_activation_hook).remove)
        stack.enter_context(_Mode(attention_bytes, last))
        yield
