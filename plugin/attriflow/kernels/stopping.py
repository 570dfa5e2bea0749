"""Work that can be told to stop: whoever does it asks now and then, between model calls and between parts of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

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


_raised = list[BaseException]()


def raise_once_more(error: BaseException) -> NoReturn:
    """Raise what a signal is to raise, and let the next `check_stop` of the main thread raise it again.

    A signal may come while the interpreter runs a callback (of a weak reference, say), in which errors are ignored.
    """
    _raised[:] = [error]
    raise error


def heard() -> None:
    """What a signal raised has arrived, and need not be raised again."""
    _raised.clear()


def check_stop() -> None:
    """Raise `Stopped` where the work of this thread or task is over; and what a signal raised in vain."""
    if _raised and threading.current_thread() is threading.main_thread():
        raise _raised.pop()
    over = _asked.get()
    if over is not None and over():
        raise Stopped
