"""The one switch for all shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_plain: ContextVar[bool] = ContextVar("attriflow_plain", default=False)


def shortcuts() -> bool:
    """Whether shortcuts may be taken: ways to the same numbers that do less work."""
    return not _plain.get()


@contextmanager
def plain() -> Iterator[None]:
    """Compute everything by definition: no shortcut, one changed sequence after the other.

    Off are: reuse of prefixes' keys and values, of the encoder's output and of passes that have run already; linearised
    passes (shared slopes, attention written out, zero rows left out); cuts at the LM head and at the last block;
    graphs that end at a step's prefix, and those of a few blocks; replays of single blocks; sizes by memory and cache
    (one version per call, one product at a time). Numbers agree with those of the shortcuts to rounding: for tests, for
    doubting users, and to tell what a shortcut is worth. It holds for the thread or task that opens it.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
