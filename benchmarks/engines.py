"""What workers cost: engines against each other, a worker that is killed, and many workers whose units sleep.

    python benchmarks/engines.py compare [--rows 1000] [--rounds 2]   # local with 2 threads, 2 processes, 2 Ray actors
    python benchmarks/engines.py killed [--engine ray]                # SIGKILL for a worker in the middle of a run
    python benchmarks/engines.py many [--workers 64] [--engine processes]

Rounds of different engines take turns. Times of a run begin with its first result: starting is told apart.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from attriflow.workers import Unit, run_units

ENGINES = {"local, 2 threads": 1, "local, 1 thread": 1, "processes": 2, "ray": 2}
"""What is compared -> workers."""
METHOD, ROWS = "saliency", 20  # rows of a unit


@dataclass
class Run:
    """Of units over workers; seconds."""

    start: float = 0.0  # until the first result
    wall: float = 0.0  # from there on
    busy: float = 0.0  # in the work, of the units that came in that time
    units: int = 0
    workers: set[str] = field(default_factory=set)
    results: list[Any] = field(default_factory=list)

    def efficiency(self, workers: int) -> float:
        return self.busy / (self.wall * workers)


def timed(factory: Any, units: list[Unit], engine: str, workers: int, keep: bool = True) -> Run:
    run, begin, first = Run(), time.perf_counter(), 0.0
    for done in run_units(factory, units, engine=engine, workers=workers):
        now = time.perf_counter()
        if not first:
            first, run.start = now, now - begin
        else:
            run.units, run.busy = run.units + 1, run.busy + done.seconds
        run.wall = now - first
        run.workers.add(done.worker)
        if done.error:
            sys.exit(done.error)
        if keep:
            run.results.append((done.unit.id, done.result))
    run.results.sort()
    return run


class Explaining:
    """Explains windows of a demo data set as `attribute-dataset` does."""

    def __init__(self, threads: int) -> None:
        import torch

        import attriflow
        from attriflow.streaming import Fields
        from attriflow.streaming.windows import WindowExplainer

        torch.set_num_threads(threads)
        model = attriflow.load_model("demo/translate", device="cpu")
        explain = functools.partial(model.attribute, method=METHOD, batch_size=8, show_progress=False)
        self.work = WindowExplainer(
            load=lambda: explain, fields=Fields(inputs="input", targets="target"), run="benchmark"
        )()

    def __call__(self, window: Any) -> list[str]:
        return self.work(window).block


def windows(rows: int) -> list[Unit]:
    from attriflow.datasets import open_dataset

    texts = list(open_dataset("demo/translate").read())
    every = [texts[i % len(texts)] for i in range(rows)]
    return [Unit(f"{i:06}", (i, every[i : i + ROWS])) for i in range(0, rows, ROWS)]


def compare(rows: int, rounds: int) -> None:
    runs: dict[str, list[Run]] = {engine: [] for engine in ENGINES}
    units = windows(rows)
    for _ in range(rounds):
        for engine, workers in ENGINES.items():
            factory = functools.partial(Explaining, 1 + engine.endswith("2 threads"))
            runs[engine].append(timed(factory, units, engine.partition(",")[0], workers))
    one, *others = [run.results for engine, each in runs.items() if "2 threads" not in engine for run in each]
    same = all(results == one for results in others)
    print(f"{rows} rows in units of {ROWS}, {rounds} rounds; the same bytes from all with one thread each: {same}")
    print("| engine (workers) | rows/s | against the first | in the work | start (s) |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for engine, workers in ENGINES.items():
        each = runs[engine]
        speed = [run.units * ROWS / run.wall for run in each]
        ratio = [
            mine / (run.units * ROWS / run.wall) for mine, run in zip(speed, runs["local, 2 threads"], strict=True)
        ]
        busy, start = [run.efficiency(workers) for run in each], [run.start for run in each]
        columns = ((speed, ".0f"), (ratio, ".2f"), (busy, ".0%"), (start, ".1f"))
        print(f"| {engine} ({workers}) | {' | '.join(f'{statistics.median(v):{form}}' for v, form in columns)} |")


class Sleeping:
    def __call__(self, task: tuple[float, int]) -> Any:
        seconds, size = task
        if size < 0:
            return os.getpid()
        time.sleep(seconds)
        return bytes(size)


def killed(engine: str, n: int = 200, seconds: float = 0.2) -> None:
    """A worker is killed when a quarter of the units is done."""
    units = [Unit("pid", (0.0, -1)), *[Unit(str(i), (seconds, 1000)) for i in range(n)]]
    begin, pid, at, done_by = 0.0, 0, 0.0, dict[str, int]()
    for seen, done in enumerate(run_units(Sleeping, units, engine=engine, workers=2), 1):
        begin = begin or time.perf_counter()
        if done.error:
            sys.exit(done.error)
        if done.unit.id == "pid":
            pid = done.result
        done_by[done.worker] = done_by.get(done.worker, 0) + 1
        if seen == n // 4:
            os.kill(pid, signal.SIGKILL)
            at = time.perf_counter()
    wall = time.perf_counter() - begin
    print(f"{engine}: {seen} of {len(units)} units of {seconds} s by 2 workers, one killed after {at - begin:.1f} s")
    print(f"took {wall:.1f} s; without it and without overhead {n * seconds / 2:.1f} s; units by worker: {done_by}")


def many(engine: str, workers: int, n: int, seconds: float, size: int) -> None:
    """Units that sleep and return so many bytes; the driver's time, queue (handed out, not back yet) and memory."""
    me, away, queue, memory = psutil.Process(), set[str](), [], []

    def units() -> Iterator[Unit]:
        for i in range(n):
            away.add(str(i))
            yield Unit(str(i), (seconds, size))

    begin, first, cpu = time.perf_counter(), 0.0, 0.0
    for seen, done in enumerate(run_units(Sleeping, units(), engine=engine, workers=workers), 1):
        if not first:
            first, cpu = time.perf_counter(), sum(me.cpu_times()[:2])
        queue.append(len(away))
        away.remove(done.unit.id)
        if seen % max(1, n // 20) == 0:
            memory.append(me.memory_info().rss / 1e6)
        if done.error:
            sys.exit(done.error)
    wall, used = time.perf_counter() - first, sum(me.cpu_times()[:2]) - cpu
    rate, half = (n - 1) / wall, len(memory) // 2
    cells = (
        engine,
        workers,
        f"{seconds} s, {size / 1000:.0f} kB",
        n,
        f"{first - begin:.0f} s",
        f"{rate:.0f}",
        f"{rate * seconds / workers:.0%}",
        f"{used / wall:.0%}",
        f"{statistics.mean(queue):.0f} / {max(queue)}",
        f"{memory[0]:.0f} / {memory[half]:.0f} / {memory[-1]:.0f} MB",
    )
    print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compare", "killed", "many"])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", default="processes", choices=["processes", "ray"])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--bytes", type=int, default=240_000)
    options = parser.parse_args()
    if options.what == "compare":
        compare(options.rows, options.rounds)
    elif options.what == "killed":
        killed(options.engine)
    else:
        many(options.engine, options.workers, options.units, options.seconds, options.bytes)


if __name__ == "__main__":
    main()
