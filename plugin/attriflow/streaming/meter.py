"""How far a long run is: a bar with the time left in terminals, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_EVERY = 60.0  # seconds


class Meter:
    """Progress over `total` rows, of which `done` were there before. On standard error."""

    def __init__(self, total: int, done: int, show: bool = True) -> None:
        """Nothing is shown before the `with` block."""
        self.total, self.first, self.done, self.show = total, done, done, show
        self._begin = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Meter:
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("rows", total=self.total, completed=self.done, speed="")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, rows: int) -> None:
        """Count further rows."""
        self.done += rows
        now = time.monotonic()
        speed = (self.done - self.first) / max(now - self._begin, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=f"{speed:,.1f}/s")
        elif self.show and now - self._last >= LINE_EVERY:
            self._last = now
            left = duration((self.total - self.done) / speed)
            share = 100 * self.done / max(1, self.total)
            print(
                f"{self.done:,} of {self.total:,} rows ({share:.1f}%), {speed:,.1f} rows/s, {left} left",
                file=sys.stderr,
                flush=True,
            )


def duration(seconds: float) -> str:
    """In minutes, or in hours and minutes."""
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else "under a minute"
    )
