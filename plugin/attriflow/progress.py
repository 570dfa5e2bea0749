"""A progress bar for anything that takes over two seconds; in a log file a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from attriflow.errors import printable

T = TypeVar("T")
PATIENCE = 2.0
"""Seconds before a bar appears."""
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


def track(items: Iterable[T], description: str, show: bool = True, total: int | None = None) -> Iterator[T]:
    """Iterate with a rich progress bar on standard error, which appears after two seconds.

    Where standard error is no terminal, a line says now and then how far it is.
    """
    description = printable(description)
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not show:
        yield from items
        return
    if not sys.stderr.isatty():
        yield from _logged(items, description, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


def _logged(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    begin = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= EVERY and done != total:  # of what is done, its result tells
            said = now
            of = "" if total is None else f" of {total}"
            print(f"{description}: {done}{of} done after {now - begin:.0f} s", file=sys.stderr, flush=True)
