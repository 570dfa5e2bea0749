"""A progress bar for anything that takes over two seconds; silent in non-terminals."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0


def track(items: Iterable[T], description: str, show: bool = True, total: int | None = None) -> Iterator[T]:
    """Iterate with a rich progress bar on standard error, which appears after two seconds."""
    if not show or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(description, total=total)
    begin, started = time.monotonic(), False
    try:
        for item in items:
            yield item
            progress.advance(task)
            if not started and time.monotonic() - begin > PATIENCE:
                progress.start()
                started = True
    finally:
        if started:
            progress.stop()
