"""Linear layers with frozen weights on CPUs, whose gradients leave out the rows that are zero.

A step's gradient is zero at every position after the one that the step is read at. In the products of all steps
together, about half of the rows are; multiplying them is half of the work. They are found from the numbers, so that it
is exact for any model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.kernels.plain import shortcuts
from attriflow.kernels.vmapped import together

SMALLEST = 2**18
"""Weights of a layer from which on fewer rows make up for looking for them."""

CHOSEN = 32
"""Rows that are picked out are filled up to a multiple of this: their number is another every time, and MKL keeps a
buffer for each."""


def without_zero_rows(hf: nn.Module) -> AbstractContextManager[Any]:
    """A context in which calls of a model, or of a part of it, have such gradients where that can gain anything."""
    if not torch.is_grad_enabled() or not shortcuts() or not any(map(_fits, hf.parameters())):
        return nullcontext()
    return _Mode()


def _fits(weight: Any) -> bool:
    """Whether something is a frozen matrix of plain numbers, and large enough; on other devices, looking costs more."""
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.ndim == 2
        and weight.numel() >= SMALLEST
        and not weight.requires_grad
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
    )


class _Linear(torch.autograd.Function):
    """Input `[..., in]` times a weight `[out, in]` without gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        found = None if torch.is_grad_enabled() else together(grad)  # enabled: gradients of gradients
        if found is None:
            return grad @ weight, None, None
        every, back = found
        return back(_without_zeros(every, weight)), None, None


def _without_zeros(x: Tensor, weight: Tensor) -> Tensor:
    """`x [..., out] @ weight [out, in]`, of the rows that are not zero."""
    rows = x.reshape(-1, x.shape[-1])
    chosen = torch.linalg.vector_norm(rows, 1, -1).nonzero().squeeze(-1)
    n = len(chosen)
    size = -(-n // CHOSEN) * CHOSEN
    if size > 0.95 * len(rows):
        return x @ weight
    given = rows.new_empty(size, rows.shape[1])
    torch.index_select(rows, 0, chosen, out=given[:n])
    given[n:] = 0
    out = rows.new_zeros(len(rows), weight.shape[1])
    out.index_copy_(0, chosen, (given @ weight)[:n])
    return out.view(*x.shape[:-1], -1)


class _Mode(TorchFunctionMode):
    """Takes `linear` and `addmm` (as GPT-2's layers call them)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = None if kwargs else _operands(func, args)
        if given is not None and _taken(*given):
            return _Linear.apply(*given)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _operands(func: Any, args: Any) -> tuple[Any, Any, Any] | None:
    """Input, weight `[out, in]` and bias of a linear layer."""
    if func is torch.nn.functional.linear:
        return (*args, None)[:3]
    if func is torch.addmm and len(args) == 3 and _fits(args[2]):
        return args[1], args[2].t(), args[0]
    return None


def _taken(x: Any, weight: Any, bias: Any) -> bool:
    """Whether a layer is one of those, with an input of the graph."""
    if bias is not None and (type(bias) not in (Tensor, nn.Parameter) or bias.shape != weight.shape[:1]):
        return False
    return (
        _fits(weight)
        and (bias is None or not bias.requires_grad)
        and type(x) is Tensor
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")  # type: ignore[attr-defined]
    )
