"""Memory of tensors that are gone, given back to the system.

glibc keeps what tensors of up to 32 MB leave behind: after a batch of gradients of a model of GPT-2's size, 300 MB that
a process shows as its own, and that the next, different call grows beyond.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

LONG = 1.0
"""Seconds of work from which on giving memory back costs little beside it: 10 ms, and 20 ms to get it again."""


def give_back() -> bool:
    """Give free memory back; whether it could be tried (not outside of glibc)."""
    trim = _trim()
    if trim is None:
        return False
    trim(0)
    return True


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows does not open None
        return None
