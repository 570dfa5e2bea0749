"""Work that can be told to stop: whoever does it asks now and then, between model calls and between parts of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[Callable[[], bool] | None] = ContextVar("attriflow_asked_to_stop", default=None)


class Stopped(BaseException):
    """Work was told to stop. No `Exception`, so that nobody takes it for a method that failed and does the next one."""


@contextmanager
def stoppable(over: Callable[[], bool]) -> Iterator[None]:
    """Within the block, work of this thread or task raises `Stopped` once `over()` is true."""
    token = _asked.set(over)
    try:
        yield
    finally:
        _asked.reset(token)


def check_stop() -> None:
    """Raise `Stopped` where the work of this thread or task is over."""
    over = _asked.get()
    if over is not None and over():
        raise Stopped
