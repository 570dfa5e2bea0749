"""Whether two results say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def same(a: Any, b: Any, leave_out: Sequence[str] = ()) -> bool:
    """Equal values; NaN equals NaN, a list a tuple, and what a file keeps as its repr that repr.

    Args:
        a, b: Tensors, plain values, dataclasses or any nesting of them.
        leave_out: Fields of dataclasses that do not count.
    """
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return both and bool(((a == b) | (a.isnan() & b.isnan())).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], leave_out) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, leave_out) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        names = [f.name for f in dataclasses.fields(a) if f.name not in leave_out]
        return all(same(getattr(a, name), getattr(b, name), leave_out) for name in names)
    return bool(a == b) or repr(a) == b or a == repr(b)
