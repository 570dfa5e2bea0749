"""The tensors behind `torch.vmap`, for functions that have a better way than one operation at a time.

An `autograd.Function` with a `vmap` method would be the public way to the same; its call takes 0.4 ms, more than many
of the products that it is for.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


_ONE_BY_ONE = ("ignore", re.compile("There is a performance drop", re.IGNORECASE), Warning, None, 0)
_guard, _callers = threading.Lock(), list[None]()


@contextmanager
def unremarked() -> Iterator[None]:
    """No warning about operations that `torch.vmap` does one by one: nothing that users could change.

    Threads share the filters of warnings, which `warnings.catch_warnings` mixes up: here the first to come adds one
    filter, and the last to go takes it away.
    """
    with _guard:
        _callers.append(None)
        if len(_callers) == 1:
            _filters().insert(0, _ONE_BY_ONE)
    try:
        yield
    finally:
        with _guard:
            _callers.pop()
            if not _callers and _ONE_BY_ONE in _filters():
                _filters().remove(_ONE_BY_ONE)


def _filters() -> list[Any]:
    filters: Any = warnings.filters  # a list, whatever its annotation says
    return filters
