"""The largest batch that fits into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attriflow.engine.sizes import Sizes, planned
from attriflow.errors import OutOfMemoryError
from attriflow.kernels.devices import free_memory
from attriflow.measuring.cost import MEGABYTE, PeakMemory, counting, timed

if TYPE_CHECKING:
    import torch

    from attriflow.model import AttributionModel
    from attriflow.types import Example

MOST = 1024
SHARE = 0.8
"""Share of the free memory that a batch may be expected to take, where running out would end the process."""
Reason = Literal["memory", "time", "most"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """A batch that was tried.

    Attributes:
        size: Examples.
        seconds: That it took.
        target_tokens_per_second: Of this batch alone.
        peak_memory_mb: Above what was in use before.
    """

    size: int
    seconds: float
    target_tokens_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestBatch:
    """What the search found.

    Attributes:
        size: Largest batch that fits; 0 when not even one example does.
        stopped: Why no larger one was tried: it would not fit into "memory", the "time" was up, or it was the "most".
        tried: Batches that were run, smallest first.
    """

    size: int
    stopped: Reason
    tried: tuple[BatchSize, ...]

    def __str__(self) -> str:
        return f"{self.size}" if self.stopped == "memory" else f"{self.size}+"


def largest_batch(
    model: AttributionModel,
    method: str,
    options: Mapping[str, Any],
    examples: list[Example],
    *,
    most: int = MOST,
    seconds: float = 20.0,
    seed: int = 0,
    free: Callable[[torch.device], float] = free_memory,
) -> LargestBatch:
    """Double the batch until it does not fit, then halve the gap until it is an eighth of the batch.

    The batches are copies of the longest example, so that any batch of that size fits. On an accelerator a batch
    does not fit when it had to be split to run. Where running out of memory would end the process, a batch is only
    tried when what the method plans, and what earlier ones took, says that it takes at most `SHARE` of what is free.

    Args:
        model: The model.
        method: Name of the method.
        options: Its options.
        examples: What is explained.
        most: Largest batch to try.
        seconds: Time for the search: no larger batch is begun that should end later.
        seed: Of methods that draw random numbers.
        free: Bytes that are free on a device.
    """
    longest = max(examples, key=lambda e: (len(e.source) + len(e.target), e.n_steps))
    tried: list[BatchSize] = []

    def plan(size: int) -> float:
        return planned(method, options, Sizes.of_examples(model.wrapped, [longest] * size))

    def fits(size: int) -> bool:
        if not counting(model.wrapped.devices) and _expected(tried, size, plan) > SHARE * free(model.device):
            return False
        batch = [longest] * size
        try:
            with PeakMemory(*model.wrapped.devices) as memory:
                found, took = timed(
                    lambda: model.attribute_examples(
                        batch, method, batch_size=size, seed=seed, show_progress=False, **options
                    ),
                    model.device,
                )
        except OutOfMemoryError:
            return False
        if found[0].provenance.batch_size < size:  # it ran in parts
            return False
        tried.append(
            BatchSize(
                size=size,
                seconds=took,
                target_tokens_per_second=size * longest.n_tokens / took,
                peak_memory_mb=memory.megabytes,
            )
        )
        return True

    begin, good, size = time.monotonic(), 0, 1
    while fits(size):
        good, size = size, min(2 * size, most)
        if good == most:
            return _found(good, "most", tried)
        if time.monotonic() - begin + 2 * tried[-1].seconds > seconds:
            return _found(good, "time", tried)
    bad = size
    while bad - good > max(1, good // 8) and time.monotonic() - begin < seconds:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return _found(good, "memory", tried)


def _found(size: int, stopped: Reason, tried: list[BatchSize]) -> LargestBatch:
    return LargestBatch(size=size, stopped=stopped, tried=tuple(sorted(tried, key=lambda b: b.size)))


def _expected(tried: list[BatchSize], size: int, plan: Callable[[int], float]) -> float:
    """Bytes that a batch should take: as planned, and as much more as the largest one so far took than planned."""
    if not tried:
        return plan(size)
    largest = max(tried, key=lambda b: b.size)
    return plan(size) * max(1.0, largest.peak_memory_mb * MEGABYTE / plan(largest.size))
