"""What a method costs: seconds, tokens per second, time in forward passes, peak memory."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from attriflow.engine.memory import give_back
from attriflow.kernels import devices

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
MIN_SECONDS = 0.5
"""Quick work is repeated until this much time was measured ..."""
MAX_REPEATS = 5
"""... but not more often than this; medians count, because other programs share the machine."""
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of explaining a data set with one method; None where it was not measured.

    Attributes:
        seconds: Wall time (median of the repeats of quick methods).
        target_tokens_per_second: Explained tokens per second.
        forward_equivalents: Time of a run over that of one teacher-forced forward pass of the same batches, timed right
            before and after the run (median of the repeats).
        peak_memory_mb: Most memory used at once on top of what was in use before the method started.
        peak_by_device: The same of each device that counts it.
        forward_seconds: That forward pass (median).
        repeats: Timed runs behind `seconds`.
        rounds: Forward equivalents of each of them.
    """

    seconds: float
    target_tokens_per_second: float | None = None
    forward_equivalents: float | None = None
    peak_memory_mb: float | None = None
    forward_seconds: float | None = None
    repeats: int = 1
    rounds: tuple[float, ...] = ()
    peak_by_device: Mapping[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """The measured numbers by their metric name."""
        names = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
        return {n: float(v) for n in names if (v := getattr(self, n)) is not None}

    @classmethod
    def of_blocks(cls, parts: Sequence[Cost], n_tokens: int) -> Cost:
        """Cost of a data set from those of its blocks: times add up, peaks do not."""
        if len(parts) == 1:
            return parts[0]
        seconds, forwards = sum(p.seconds for p in parts), [p.forward_seconds for p in parts]
        known = [f for f in forwards if f is not None]
        if not known:
            return cls(seconds=seconds)
        peaks = {place: max(p.peak_by_device.get(place, 0.0) for p in parts) for place in parts[0].peak_by_device}
        return cls(
            seconds=seconds,
            target_tokens_per_second=n_tokens / seconds,
            forward_equivalents=seconds / sum(known),
            peak_memory_mb=max(p.peak_memory_mb or 0.0 for p in parts),
            forward_seconds=sum(known),
            repeats=min(p.repeats for p in parts),
            rounds=tuple(r for p in parts for r in p.rounds),
            peak_by_device=peaks,
        )


def memory_kind(*places: torch.device) -> str:
    """What `peak_memory_mb` counts for a model on these devices."""
    counted = counting(places)
    if counted:
        of_all = f", sum of {len(counted)} devices" if len(counted) > 1 else ""
        return f"{counted[0].type}: peak of allocated memory above that at the start{of_all}"
    return f"{places[0].type}: peak of the process's resident set above that at the start, sampled"


def counting(places: Iterable[torch.device]) -> list[torch.device]:
    """Those of some devices that count the memory of their tensors."""
    return [place for place in places if devices.counts_memory(place)]


class PeakMemory:
    """Context manager: the most memory in use at once above that at the start.

    Attributes:
        megabytes: Of all devices that count it (the sum of each one's most), else of the process.
        by_device: Of each device that counts it.
    """

    def __init__(self, *places: torch.device, interval: float = 0.002) -> None:
        self.counted, self.interval = counting(places), interval
        self.megabytes, self.by_device = 0.0, dict[str, float]()
        self._held: list[int] = []
        self._base = self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.counted:
            devices.empty_cache()
            self._held = [devices.reset_peak(place) for place in self.counted]
            return self
        give_back()  # what an earlier method freed but the C library kept would hide what this one needs
        self._base = self._peak = _resident_bytes()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._peak = max(self._peak, _resident_bytes())
        for place, held in zip(self.counted, self._held, strict=True):
            self.by_device[str(place)] = max(0, devices.peak(place) - held) / MEGABYTE
        self.megabytes = sum(self.by_device.values()) if self.counted else max(0, self._peak - self._base) / MEGABYTE

    def _sample(self) -> None:
        samples = 0
        # often at first, so that quick work is seen; then less often, so that long work is not slowed down
        while not self._stop.wait(self.interval if samples < 500 else 10 * self.interval):
            self._peak = max(self._peak, _resident_bytes())
            samples += 1


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


@contextmanager
def old_objects_uncollected(*, collect: bool = True) -> Iterator[None]:
    """Keep the garbage collector off what exists now, for a while.

    The imported libraries are half a million objects. Going through them takes a third of a second, before every
    measurement of memory and whenever the collector runs by itself in the middle of timed work. With `collect` it goes
    through them once more before that.
    """
    if gc.get_freeze_count():  # somebody else's decision, not ours to undo
        yield
        return
    if collect:
        gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Run something and return its result and seconds: wall time, until the device has done it."""
    devices.synchronize(device)
    start = time.perf_counter()
    result = work()
    devices.synchronize(device)
    return result, time.perf_counter() - start


def forward_time(forward: Callable[[], object], device: torch.device, most: int = 3) -> float:
    """Seconds of a forward pass: the median of three (`most`), of one when it is slow."""
    seconds = [timed(forward, device)[1]]
    while len(seconds) < most and sum(seconds) < MIN_SECONDS:
        seconds.append(timed(forward, device)[1])
    return statistics.median(seconds)


def measure(
    work: Callable[[], T],
    forward: Callable[[], None],
    *,
    n_tokens: int,
    places: Sequence[torch.device],
    throughput: bool = True,
    warm_up: Callable[[], object] | None = None,
    repeats: bool = True,
) -> tuple[T, Cost]:
    """Run a method over a data set and measure its cost.

    Args:
        work: The method over all examples.
        forward: One plain forward pass of the same batches.
        n_tokens: Explained tokens.
        places: Devices that the model runs on; the first one has the result.
        throughput: Measure everything; otherwise only seconds, with a single run.
        warm_up: A small piece of the work, run first: imports and lazy set-up are not the method's cost.
        repeats: Repeat quick work; not worth it for each of many blocks.
    """
    device = places[0]
    if not throughput:
        result, seconds = timed(work, device)
        return result, Cost(seconds=seconds)
    if warm_up is not None:
        warm_up()
    runs: list[float] = []
    most = 3 if repeats else 1
    forwards = [forward_time(forward, device, most)]
    with PeakMemory(*places) as memory:
        result, first = timed(work, device)
    runs.append(first)
    forwards.append(forward_time(forward, device, most))
    while repeats and sum(runs) < MIN_SECONDS and len(runs) < MAX_REPEATS:
        runs.append(timed(work, device)[1])
        forwards.append(forward_time(forward, device))
    # the machine's speed drifts: each run is compared with the forwards around it
    ratios = [run / ((forwards[i] + forwards[i + 1]) / 2) for i, run in enumerate(runs)]
    seconds = statistics.median(runs)
    return result, Cost(
        seconds=seconds,
        target_tokens_per_second=n_tokens / seconds,
        forward_equivalents=statistics.median(ratios),
        peak_memory_mb=memory.megabytes,
        forward_seconds=statistics.median(forwards),
        repeats=len(runs),
        rounds=tuple(ratios),
        peak_by_device=memory.by_device,
    )
