"""What a data set will take, from a sample of it."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from attriflow.datasets import Row, Rows
from attriflow.errors import InputError
from attriflow.progress import duration
from attriflow.streaming.fields import Fields
from attriflow.streaming.rows import Explain
from attriflow.streaming.windows import WindowExplainer

SPOTS = 4
"""Places of the data set that a sample is from: it may be sorted by length."""
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What `rows` rows take, taken to be like those of a sample.

    Attributes:
        rows: How many there are to do.
        window: Rows that a worker is given at once.
        sampled, failed: Rows that were tried, and those of them that could not be explained.
        load_seconds: Loading the model and its first row.
        row_seconds: Of a row, in a worker like this process.
        row_passes: Forward passes of a row; a backward pass counts as two.
        row_bytes: What is written of a row as JSON lines; 0 where that is not known.
        alone_seconds: Of what one process does, whoever else works: metrics that explain again.
    """

    rows: int
    window: int
    sampled: int
    failed: int
    load_seconds: float
    row_seconds: float
    row_passes: float
    row_bytes: float
    alone_seconds: float = 0.0

    @property
    def device_hours(self) -> float:
        """Of one worker with all rows, loading left out."""
        return (self.rows * self.row_seconds + self.alone_seconds) / 3600

    def seconds(self, workers: int) -> float:
        """Until all rows are done. The last worker has at most one window more than the others."""
        windows = math.ceil(self.rows / self.window)
        most = min(self.rows, math.ceil(windows / workers) * self.window)
        return self.load_seconds + self.alone_seconds + most * self.row_seconds

    def workers(self, seconds: float) -> int | None:
        """Fewest workers that are done within some time; None where none are."""
        left = seconds - self.load_seconds - self.alone_seconds
        most = math.floor(left / (self.row_seconds * self.window)) if left > 0 else 0  # windows per worker
        if most < 1:
            return 1 if self.seconds(1) <= seconds else None
        return math.ceil(math.ceil(self.rows / self.window) / most)

    def lines(self, within: float | None = None) -> list[str]:
        """What to tell."""
        failed = f", {self.failed} failed" if self.failed else ""
        each = f"{self.row_seconds:.3g} s and {self.row_passes:,.1f} forward passes a row"
        in_all = f"{self.rows * self.row_passes:,.0f} forward passes, {self.device_hours:,.3g} device hours"
        in_all += f", {self.rows * self.row_bytes / 1e6:,.0f} MB as JSON lines" if self.row_bytes else ""
        if self.alone_seconds:
            in_all += f"; {duration(self.alone_seconds)} of metrics that explain again, in one process"
        told = [
            f"plan: {self.rows:,} rows, from {self.sampled} of them{failed}: {each}; {self.load_seconds:.1f} s to load",
            f"      {in_all}",
            "      " + "; ".join(f"{n} worker{'s' * (n > 1)}: {duration(self.seconds(n))}" for n in (1, 2, 4, 8, 64)),
        ]
        if within is not None:
            n = self.workers(within)
            many = "no number of workers: loading and one window take longer" if n is None else f"{n:,} workers"
            told.append(f"      within {duration(within)}: {'1 worker' if n == 1 else many}")
        return told


def estimate(
    rows: Rows,
    load: Callable[[], Explain],
    *,
    fields: Fields | None = None,
    window: int = 128,
    sample: int = 32,
    total: int | None = None,
) -> Estimate:
    """Explain a sample, and say what all rows will take.

    Args:
        rows, load, fields, window: As for `attribute_dataset`.
        sample: Rows to try, from several places of the data set.
        total: Rows to plan for; those of the data set by default.

    Raises:
        InputError: There is no row, or none of the sample can be explained.
    """
    fields = (fields or Fields()).resolved(rows.columns)
    tried = sample_of(rows, sample)
    if not tried:
        raise InputError("there are no rows to plan for")
    begin = time.perf_counter()
    explain = WindowExplainer(load=load, fields=fields, run="plan")()
    explain((0, tried[:1]))  # the first call sets things up
    loaded = time.perf_counter()
    found = explain((0, tried))
    took = time.perf_counter() - loaded
    if len(found.wrong) == len(tried):
        raise InputError(f"none of {len(tried)} rows can be explained; one of them: {found.wrong[0][1]}")
    return Estimate(
        rows=len(rows) if total is None else total,
        window=window,
        sampled=len(tried),
        failed=len(found.wrong),
        load_seconds=loaded - begin,
        row_seconds=took / len(tried),
        row_passes=(found.forward_rows + 2 * found.backward_rows) / len(tried),
        row_bytes=sum(len(line.encode()) for line in found.block) / len(tried),
    )


def sample_of(rows: Rows, n: int) -> list[Row]:
    """Rows from the beginning of each of a few equal parts."""
    if len(rows) <= n:
        return list(rows.read())
    spots = min(SPOTS, n)
    sizes = [n // spots + (i < n % spots) for i in range(spots)]
    return [row for i, size in enumerate(sizes) for row in itertools.islice(rows.read(len(rows) * i // spots), size)]


def seconds_of(text: str) -> float:
    """A time such as 90s, 45min, 8h or 2d."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)\s*", text.lower())
    if found is None or float(found[1]) <= 0:
        raise InputError(f"{text!r} is no time: give 90s, 45min, 8h or 2d")
    return float(found[1]) * UNITS[found[2]]
