"""Linear layers with frozen weights on x86 CPUs, through oneDNN.

PyTorch computes products in single precision with MKL there. oneDNN, which it brings along, takes 5% to 50% less time
where few rows meet many weights: short texts, one batch of gradients, an LM head. The numbers agree to rounding.
`torch.backends.mkldnn.flags(enabled=False)` turns it off; the environment variable ONEDNN_PRIMITIVE_CACHE_CAPACITY
decides how much memory it may take, and is set to a small number where it is not set. What it never gives back is
limited here (`COMPILED`).
"""

from __future__ import annotations

import bisect
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.kernels.vmapped import together

SMALLEST = 2**18
"""Weights of a layer from which on the faster product makes up for the dearer call."""

KEPT = 32
"""Products that oneDNN keeps ready, one for each shape, 0.3 MB each; its own limit is 1,024."""

COMPILED = 512
"""Shapes that it is given in all: 0.3 MB of machine code for each stay in the process. Beyond them, rows are filled up
to a shape that it knows, or MKL computes the product, so that ever other lengths of text do not make a process grow."""

_KNOWN: dict[Any, list[int]] = {}
"""Shape, order and bias of a layer -> numbers of rows that oneDNN was given, in order."""

CHOSEN = 32
"""Rows that are picked out are filled up to a multiple of this, since their number is another every time."""


def fast_products(hf: nn.Module) -> AbstractContextManager[Any]:
    """A context in which calls of a model, or of a part of it, use the faster products where they can."""
    if not torch.backends.mkldnn.enabled or _product() is None or torch.is_autocast_enabled("cpu"):  # type: ignore[attr-defined]
        return nullcontext()
    if not any(map(_fits, hf.parameters())):
        return nullcontext()
    # read once, at the first product; a process that has used oneDNN before keeps its limit
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT))
    return _Mode()


def _product() -> Any:
    """`(input, weight [out, in], bias, "none", [], "") -> output`: PyTorch's compiler uses it for inference."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _fits(weight: Any) -> bool:
    """Whether something is a matrix of plain numbers, and large enough."""
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.ndim == 2
        and weight.numel() >= SMALLEST
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
    )


class _Linear(torch.autograd.Function):
    """Input `[..., in]` times a weight `[out, in]` without gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiplied(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients
            return grad @ weight, None, None
        found = together(grad)
        if found is None:
            return _multiplied(grad, weight.t()), None, None
        every, back = found
        return back(_without_zeros(every, weight.t())), None, None


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    n = x.numel() // x.shape[-1]
    rows = _known_rows(n, (weight.shape, weight.stride(), bias is None))
    if rows is None:
        return torch.nn.functional.linear(x, weight, bias)
    if rows > n:
        given = x.new_empty(rows, x.shape[-1])
        given[:n], given[n:] = x.reshape(n, -1), 0
        filled: Tensor = _product()(given, weight, bias, "none", [], "")
        return filled[:n].view(*x.shape[:-1], -1)
    out: Tensor = _product()(x, weight, bias, "none", [], "")
    return out


def _known_rows(n: int, layer: Any) -> int | None:
    """How many rows to give to oneDNN where there are `n`; None where it is not to be asked."""
    known = _KNOWN.setdefault(layer, [])
    place = bisect.bisect_left(known, n)
    if place < len(known) and known[place] == n:
        return n
    if sum(map(len, _KNOWN.values())) < COMPILED:
        known.insert(place, n)
        return n
    return known[place] if place < len(known) and known[place] <= n + max(8, n // 8) else None


def _without_zeros(x: Tensor, weight: Tensor) -> Tensor:
    """The product of the rows that are not zero: gradients of a step are, after the position it is read at."""
    rows = x.reshape(-1, x.shape[-1])
    chosen = torch.linalg.vector_norm(rows, 1, -1).nonzero().squeeze(-1)
    n = len(chosen)
    size = -(-n // CHOSEN) * CHOSEN
    if size > 0.95 * len(rows):
        return _multiplied(x, weight)
    given = rows.new_empty(size, rows.shape[1])
    torch.index_select(rows, 0, chosen, out=given[:n])
    given[n:] = 0
    out = rows.new_zeros(len(rows), weight.shape[0])
    out.index_copy_(0, chosen, _multiplied(given, weight)[:n])
    return out.view(*x.shape[:-1], -1)


class _Mode(TorchFunctionMode):
    """Takes `linear` and `addmm` (as GPT-2's layers call them)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = None if kwargs else _operands(func, args)
        if given is not None and _taken(*given):
            return _apply(*given)
        return func(*args, **(kwargs or {}))


def _operands(func: Any, args: Any) -> tuple[Any, Any, Any] | None:
    """Input, weight `[out, in]` and bias of a linear layer."""
    if func is torch.nn.functional.linear:
        x, weight, bias = (*args, None)[:3]
        return x, weight, bias
    if func is torch.addmm and len(args) == 3 and _fits(args[2]):
        return args[1], args[2].t(), args[0]
    return None


def _taken(x: Any, weight: Any, bias: Any) -> bool:
    """Whether a layer is one of those: frozen, of plain single-precision numbers, with something to compute."""
    if not _fits(weight):
        return False
    learns = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    return (
        not learns
        and type(x) is Tensor
        and x.dtype == weight.dtype
        and x.device == weight.device
        and x.layout == torch.strided
        and x.numel() > 0
        and (bias is None or (type(bias) in (Tensor, nn.Parameter) and bias.shape == weight.shape[:1]))
    )


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return _multiplied(x, weight, bias)
