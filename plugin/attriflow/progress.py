"""How far long work is: in terminals a bar with the time left, in a log file a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

from attriflow.errors import printable

T = TypeVar("T")
PATIENCE = 2.0
"""Seconds before a bar appears."""
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Meter:
    """Progress over `total` things (None: nobody knows), of which `done` were there before. On standard error."""

    def __init__(self, what: str, total: int | None, done: int = 0, show: bool = True) -> None:
        """Nothing is shown before the `with` block, nor in its first seconds.

        Args:
            what: The things, in the plural.
            total, done: How many there are.
            show: Show anything.
        """
        self.what, self.total, self.first, self.done, self.show = printable(what), total, done, done, show
        self._begin = self._said = 0.0
        self._bar: Any = None
        self._shown = False

    def __enter__(self) -> Meter:
        if self.show:
            self._begin = self._said = time.monotonic()
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            name, speed = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[speed]}")
            columns = (name, BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, speed="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._shown:
            self._bar.stop()

    def advance(self, n: int = 1) -> None:
        """Count further things."""
        self.done += n
        if not self.show:
            return
        now = time.monotonic()
        per_second = (self.done - self.first) / max(now - self._begin, 1e-9)
        speed = f"{per_second:,.1f}/s" if per_second >= 1 else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=speed)
            if not self._shown and now - self._begin > PATIENCE:
                self._bar.start()
                self._shown = True
        elif now - self._said >= EVERY and self.done != self.total:  # of what is done, its result tells
            self._said = now
            of = "" if self.total is None else f" of {self.total:,}"
            left = "" if self.total is None else f"{duration((self.total - self.done) / per_second)} left"
            rest = ", ".join(filter(None, (speed, left)))
            print(
                f"{self.what}: {self.done:,}{of} done after {duration(now - self._begin)}{rest and f' ({rest})'}",
                file=sys.stderr,
                flush=True,
            )


def track(items: Iterable[T], description: str, show: bool = True, total: int | None = None) -> Iterator[T]:
    """Iterate with a `Meter`, whose number of items is asked for where it is not given."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Meter(description, total, show=show) as meter:
        for item in items:
            yield item
            meter.advance()


def duration(seconds: float) -> str:
    """In seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
