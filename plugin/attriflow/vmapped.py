"""The tensors behind `torch.vmap`, for functions that have a better way than one operation at a time.

An `autograd.Function` with a `vmap` method would be the public way to the same; its call takes 0.4 ms, more than many
of the products that it is for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def together(batched: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """All that a `torch.vmap` sends through at once.

    Args:
        batched: What a function under `torch.vmap` gets.

    Returns:
        `[n, *shape]` in place of the `[*shape]` that the function sees, and the way back; None outside of `torch.vmap`.

    Raises:
        RuntimeError: Under several of them, or in a version of PyTorch that shows nothing of this.
    """
    try:
        functorch = torch._C._functorch  # type: ignore[attr-defined]
        if not functorch.is_functorch_wrapped_tensor(batched):
            return None
        level, axis = functorch.maybe_get_level(batched), functorch.maybe_get_bdim(batched)
        plain = functorch.get_unwrapped(batched)
        if not functorch.is_batchedtensor(batched) or functorch.is_functorch_wrapped_tensor(plain):
            raise RuntimeError("several transformations at once")
        if level != functorch.maybe_current_level():
            raise RuntimeError("another transformation than the current one")
        back = functorch._add_batch_dim
    except AttributeError as error:
        raise RuntimeError(f"this version of PyTorch does not show what torch.vmap runs: {error}") from None
    return plain.movedim(axis, 0), lambda out: back(out, 0, level)
