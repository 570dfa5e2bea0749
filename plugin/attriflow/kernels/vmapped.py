"""The tensors behind `torch.vmap`, for functions that have a better way than one operation at a time.

An `autograd.Function` with a `vmap` method would be the public way to the same; its call takes 0.4 ms, more than many
of the products that it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def together(batched: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """All that a `torch.vmap` sends through at once.

    Args:
        batched: What a function under `torch.vmap` gets.

    Returns:
        `[n, *shape]` in place of the `[*shape]` that the function sees, and the way back. None outside of `torch.vmap`,
        and where it cannot be seen (several transformations at once, another version of PyTorch): ordinary operations
        do the same there.
    """
    functorch: Any = getattr(torch._C, "_functorch", None)
    try:
        if not functorch.is_batchedtensor(batched):
            return None
        level, axis = functorch.maybe_get_level(batched), functorch.maybe_get_bdim(batched)
        plain, back = functorch.get_unwrapped(batched), functorch._add_batch_dim
        if functorch.is_functorch_wrapped_tensor(plain) or level != functorch.maybe_current_level():
            return None
    except AttributeError:
        return None
    return plain.movedim(axis, 0), lambda out: back(out, 0, level)
