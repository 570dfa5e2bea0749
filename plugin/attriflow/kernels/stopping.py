"""Work that can be told to stop: whoever does it asks now and then, between model calls and between parts of one.

By whoever waits for it (`stoppable`), or by a signal (`terminable`), so that what was found is kept before it ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from attriflow.errors import reason_of

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


TERMINATED = 128 + int(signal.SIGTERM)
"""Exit status of a process that was told to stop, as shells and schedulers report it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM (a scheduler's time limit, `timeout`, a container's end) raises `SystemExit(143)`.

    Where it is ignored (see `raise_once_more`), it and Ctrl-C are raised again. Only where nobody handles them
    otherwise, and in the main thread, which alone may.
    """
    here = threading.current_thread() is threading.main_thread()
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    ours = {number: handler for number, handler in usual.items() if here and signal.getsignal(number) is handler}
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if ours:
            heard()


def _stop(number: int, _frame: Any) -> None:
    raise_once_more(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED))


def why(error: BaseException) -> str:
    """What ended work before its time, in words; it has arrived, then."""
    heard()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    if isinstance(error, SystemExit):
        return "told to stop (SIGTERM)" if error.code == TERMINATED else f"told to exit ({error.code})"
    return reason_of(error)
