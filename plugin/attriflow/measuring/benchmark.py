"""Throughput of methods on a user's own model and data, as rows, a table, and a file of pytest-benchmark's form."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError, reason_of
from attriflow.kernels.devices import about
from attriflow.measuring.batch_search import LargestBatch, largest_batch
from attriflow.measuring.floors import Work
from attriflow.measuring.throughput import Throughput, measure_method, rotate
from attriflow.progress import track
from attriflow.registry import methods
from attriflow.versions import __version__, versions

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from attriflow.model import AttributionModel
    from attriflow.types import Example

COLUMNS = (
    "seconds",
    "target_tokens_per_second",
    "attributions_per_second",
    "forward_equivalents",
    "floor_forward_equivalents",
    "fraction_of_floor",
    "model_flops_utilisation",
    "peak_memory_mb",
    "forward_passes",
    "products",
)
CHECKED = "forward_pass_equivalents"
"""The field of `extra_info` that `attriflow check` reads."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """How to measure.

    Attributes:
        methods: Names.
        method_options: Method -> options.
        batch_size: Examples per batch; None lets the engine choose.
        seed: Of methods that draw random numbers.
        rounds: Least and most timed rounds per method; a single one when a round takes longer than `seconds`.
        seconds: Time to spend on them.
        find_batch: Search the largest batch that fits.
        most: Largest batch to try.
        batch_seconds: Time to spend on the search per method.
    """

    methods: tuple[str, ...]
    method_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int | None = None
    seed: int = 0
    rounds: tuple[int, int] = (3, 9)
    seconds: float = 3.0
    find_batch: bool = True
    most: int = 1024
    batch_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Bounds make sense."""
        least, most = self.rounds
        if not 1 <= least <= most:
            raise InputError(f"'rounds' must be two numbers, 1 or more, the smaller one first, not {self.rounds}")
        for name in ("seconds", "batch_seconds", "most"):
            if getattr(self, name) <= 0:
                raise InputError(f"'{name}' must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class MethodBenchmark:
    """One method: what was measured, or why nothing was."""

    name: str
    family: str
    options: Mapping[str, Any]
    throughput: Throughput | None = None
    largest: LargestBatch | None = None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """One row of the table."""
        numbers = self.throughput.numbers() if self.throughput is not None else {}
        return {
            "method": self.name,
            "family": self.family,
            "status": "ok" if self.throughput is not None else "failed",
            "reason": self.reason,
            **{name: numbers.get(name, math.nan) for name in COLUMNS},
            "largest_batch": str(self.largest) if self.largest is not None else "",
            "rounds": len(self.throughput.seconds) if self.throughput is not None else 0,
        }


def benchmark(
    model: AttributionModel, examples: Sequence[Example], settings: BenchmarkSettings
) -> Iterator[MethodBenchmark]:
    """Measure every method; one that fails is a row with a reason."""
    work = Work.of_model(model)
    for name in track(settings.methods, "attribution methods"):
        part, options = methods.info(name), dict(settings.method_options.get(name, {}))
        unmeasured = MethodBenchmark(name=name, family=part.meta["family"], options={**part.options, **options})
        try:
            with model.lock:  # no waiting in what is timed
                found = measure_method(
                    model,
                    name,
                    options,
                    rotate(examples),
                    work=work,
                    batch_size=settings.batch_size,
                    seed=settings.seed,
                    budget=settings.seconds,
                    rounds=settings.rounds,
                )
                largest = (
                    largest_batch(
                        model,
                        name,
                        options,
                        list(examples),
                        most=settings.most,
                        seconds=settings.batch_seconds,
                        seed=settings.seed,
                    )
                    if settings.find_batch
                    else None
                )
        except Exception as error:
            yield replace(unmeasured, reason=reason_of(error))
        else:
            yield replace(unmeasured, throughput=found, largest=largest)


def table(found: Sequence[MethodBenchmark]) -> pd.DataFrame:
    """One row per method, cheapest first, failed ones last."""
    import pandas as pd

    frame = pd.DataFrame([m.row() for m in found])
    order = frame.assign(failed=frame["status"] != "ok").sort_values(["failed", "forward_equivalents", "method"])
    return frame.loc[order.index].reset_index(drop=True)


def record(throughput: Throughput) -> dict[str, Any]:
    """What `extra_info` of a pytest-benchmark file holds of a measurement.

    `attriflow check` compares `forward_pass_equivalents`; those of the single rounds tell how far they spread.
    """
    numbers = throughput.numbers()
    return {
        CHECKED: numbers.pop("forward_equivalents"),
        **numbers,
        f"{CHECKED}_rounds": [round(v, 5) for v in throughput.forward_equivalents],
        "target_tokens": statistics.median(throughput.tokens),
        "examples": statistics.median(throughput.examples),
        **({"peak_memory_mb_by_device": dict(by)} if len(by := throughput.peak_by_device) > 1 else {}),
    }


def document(found: Sequence[MethodBenchmark], surroundings: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """The measurements in the form of pytest-benchmark's files, for `attriflow check`."""
    return {
        "machine_info": dict(surroundings),
        "commit_info": {},
        "benchmarks": [
            {
                "group": m.family,
                "name": m.name,
                "fullname": m.name,
                "params": {"method": m.name, **about},
                "param": m.name,
                "extra_info": {**record(m.throughput), "options": dict(m.options)},
                "stats": _stats(m.throughput.seconds),
            }
            for m in found
            if m.throughput is not None
        ],
        "datetime": datetime.now(timezone.utc).isoformat(),
        "version": f"attriflow {__version__}",
    }


def _stats(seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "min": min(seconds),
        "max": max(seconds),
        "mean": statistics.mean(seconds),
        "stddev": statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
        "median": statistics.median(seconds),
        "rounds": len(seconds),
        "iterations": 1,
        "data": list(seconds),
    }


def surroundings(device: torch.device, dtype: torch.dtype, *more: torch.device) -> dict[str, Any]:
    """Where and how numbers come about: devices, precision, threads, switches that change speed, versions."""
    import torch

    found: dict[str, Any] = {
        "device": ", ".join(dict.fromkeys(map(str, (device, *more)))),
        "device_name": platform.processor() or platform.machine(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "python": platform.python_version(),
        **versions(),
    }
    return found | about(device)
