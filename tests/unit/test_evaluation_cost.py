"""Costs are medians of several runs, memory is what is used on top of what was there."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

import pytest
import torch

from attriflow.measuring import cost
from attriflow.measuring.cost import Cost, PeakMemory, forward_time, measure, memory_kind, old_objects_uncollected

CPU = torch.device("cpu")


class Clock:
    """A clock that only the work itself moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(cost.time, "perf_counter", lambda: self.now)

    def work(self, name: str, seconds: list[float]) -> Callable[[], str]:
        left = iter(seconds)

        def run() -> str:
            self.log.append(name)
            self.now += next(left)
            return name

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_forward_is_the_median_of_three_or_one_when_slow(clock: Clock) -> None:
    assert forward_time(clock.work("f", [0.1, 0.3, 0.05]), CPU) == pytest.approx(0.1)
    assert forward_time(clock.work("f", [0.7]), CPU) == pytest.approx(0.7)


def test_slow_work_runs_once_between_forwards(clock: Clock) -> None:
    work, forward = clock.work("m", [2.0]), clock.work("f", [0.1, 0.1, 0.9, 0.3, 0.3])
    result, found = measure(work, forward, n_tokens=10, places=[CPU], warm_up=clock.work("w", [9.0]))
    assert result == "m"
    assert "".join(clock.log) == "wfffmff"
    assert found.seconds == pytest.approx(2.0) and found.repeats == 1
    assert found.forward_seconds == pytest.approx(0.2)
    assert found.forward_equivalents == pytest.approx(2.0 / ((0.1 + 0.3) / 2))
    assert found.target_tokens_per_second == pytest.approx(5.0)


def test_quick_work_is_repeated_and_compared_with_the_forwards_around_it(clock: Clock) -> None:
    # the machine is twice as slow from the second run on; the ratio is not
    work = clock.work("m", [0.02, 0.04, 0.04, 0.04, 0.04])
    forward = clock.work("f", [*[0.01] * 6, *[0.02] * 12])
    _, found = measure(work, forward, n_tokens=1, places=[CPU])
    assert "".join(clock.log) == "fff" + "mfff" * cost.MAX_REPEATS
    assert found.seconds == pytest.approx(0.04)
    assert found.forward_equivalents == pytest.approx(2.0)


def test_work_is_repeated_until_enough_time_was_measured(clock: Clock) -> None:
    work, forward = clock.work("m", [0.2, 0.2, 0.2, 9.0]), clock.work("f", [1.0] * 9)
    assert measure(work, forward, n_tokens=1, places=[CPU])[1].repeats == 3


def test_without_throughput_only_seconds() -> None:
    def forbidden() -> None:
        raise AssertionError

    result, found = measure(lambda: 7, forbidden, n_tokens=1, places=[CPU], throughput=False, warm_up=forbidden)
    assert result == 7
    assert set(found.metrics()) == {"seconds"}


def test_metrics_are_python_floats_under_their_names() -> None:
    found = Cost(seconds=1, target_tokens_per_second=2, forward_equivalents=3, peak_memory_mb=0)
    assert list(found.metrics()) == ["seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb"]
    assert all(type(v) is float for v in found.metrics().values())


def test_peak_memory_sees_what_was_freed_again() -> None:
    with PeakMemory(CPU) as memory:
        block = torch.ones(40 * 2**20 // 4)
        time.sleep(0.05)
        del block
    assert 35 < memory.megabytes < 120
    assert math.isfinite(memory.megabytes)


def test_peak_memory_of_nothing_is_small_and_never_negative() -> None:
    held = torch.ones(64 * 2**20 // 4)
    with PeakMemory(CPU) as memory:
        del held
    assert 0 <= memory.megabytes < 20


def test_an_error_passes_through_and_stops_the_sampling() -> None:
    memory = PeakMemory(CPU)
    with pytest.raises(ZeroDivisionError), memory:
        _ = 1 / 0
    assert memory._thread is not None and not memory._thread.is_alive()


def test_the_kind_of_memory_is_stated() -> None:
    assert "resident" in memory_kind(CPU)


def test_old_objects_are_left_alone_for_a_while():
    with old_objects_uncollected():
        assert gc.get_freeze_count() > 1000
        frozen = gc.get_freeze_count()
        with old_objects_uncollected():  # frozen already: nothing to do, and nothing to undo
            pass
        # but for old objects that have died meanwhile
        assert frozen - 100 < gc.get_freeze_count() <= frozen
    assert gc.get_freeze_count() == 0
