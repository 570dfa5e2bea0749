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


def give_back(seconds: float) -> bool:
    """Give free memory back after work that took so many seconds; whether it was tried (never outside of glibc)."""
    trim = _trim()
    if trim is None or seconds < LONG:
        return False
    trim(0)
    return True


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # other C libraries; Windows does not open None
        return None
