"""What tells an evaluation to stop, so that what it found is kept before it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attriflow.errors import reason_of

TERMINATED = 128 + int(signal.SIGTERM)
"""Exit status of a process that was told to stop, as shells and schedulers report it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM (a scheduler's time limit, `timeout`, a container's end) raises `SystemExit(143)`.

    Only where nobody handles it otherwise, and in the main thread, which alone may.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(*_: Any) -> None:
    raise SystemExit(TERMINATED)


def why(error: BaseException) -> str:
    """What ended an evaluation before its time, in words."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    if isinstance(error, SystemExit):
        return "told to stop (SIGTERM)" if error.code == TERMINATED else f"told to exit ({error.code})"
    return reason_of(error)


def status_of(error: BaseException) -> str:
    """MLflow's status of a run that an error ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"
