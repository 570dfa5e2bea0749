"""What tells an evaluation to stop, so that what it found is kept before it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attriflow.errors import reason_of
from attriflow.kernels.stopping import heard, raise_once_more

TERMINATED = 128 + int(signal.SIGTERM)
"""Exit status of a process that was told to stop, as shells and schedulers report it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM (a scheduler's time limit, `timeout`, a container's end) raises `SystemExit(143)`.

    Where it is ignored (see `kernels.stopping`), it and Ctrl-C are raised again. Only where nobody handles them
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
    """What ended an evaluation before its time, in words; it has arrived, then."""
    heard()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    if isinstance(error, SystemExit):
        return "told to stop (SIGTERM)" if error.code == TERMINATED else f"told to exit ({error.code})"
    return reason_of(error)


def status_of(error: BaseException) -> str:
    """MLflow's status of a run that an error ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"
