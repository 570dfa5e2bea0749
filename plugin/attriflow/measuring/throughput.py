"""Throughput in units that survive a change of machine.

Seconds say as much about a machine as about the code. So every round of work is timed between two teacher-forced
forward passes of the same examples, in the same process: their ratio, forward-pass equivalents, stays about the same
on another machine, and on one that other programs slow down.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.measuring.cost import PeakMemory, forward_time, timed
from attriflow.measuring.floors import Problem, Work, total

if TYPE_CHECKING:
    import torch

    from attriflow.model import AttributionModel
    from attriflow.types import Attribution, Example

MATMUL = 1024
"""Edge of the square matrices whose product sets the rate that utilisation is measured against ..."""
MOST, LEAST = 8192, 0.005
"""... and up to which edge it grows on accelerators until one product takes so many seconds."""


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> float:
    """Multiply-adds per second of a large square matrix product: the fastest of a few."""
    import torch

    def seconds(size: int) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
        return min([timed(lambda: a @ b, device)[1] for _ in range(1 + repeats)][1:])  # the first starts threads

    size, best = MATMUL, seconds(MATMUL)
    while device.type != "cpu" and size < MOST and best < LEAST:
        size, best = 2 * size, seconds(2 * size)
    return float(size) ** 3 / best


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How fast some work is, over several rounds; None where it is not known.

    Attributes:
        seconds: Per round.
        forward_seconds: The forward passes around each round, means.
        tokens, examples: Explained target tokens and examples per round.
        floor: Fewest multiply-adds of each round (see `floors`).
        forward_floor: Those of a forward pass of the same examples.
        matmul_rate: Multiply-adds per second of a matrix product in the same precision.
        peak_memory_mb: Most memory used at once above that at the start, in the warm-up round.
        peak_by_device: The same of each device that counts it.
        passes, products: Forward passes and vector-Jacobian products of one example, counted.
    """

    seconds: tuple[float, ...]
    forward_seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    examples: tuple[int, ...]
    floor: tuple[float, ...] | None = None
    forward_floor: tuple[float, ...] | None = None
    matmul_rate: float | None = None
    peak_memory_mb: float | None = None
    passes: float | None = None
    products: float | None = None
    peak_by_device: Mapping[str, float] = field(default_factory=dict)

    @property
    def forward_equivalents(self) -> tuple[float, ...]:
        """Seconds of each round over those of a forward pass of the same examples."""
        return tuple(s / f for s, f in zip(self.seconds, self.forward_seconds, strict=True))

    @property
    def floor_forward_equivalents(self) -> float | None:
        """Fewest multiply-adds of the work over those of a forward pass."""
        if self.floor is None or self.forward_floor is None:
            return None
        return _median(a / b for a, b in zip(self.floor, self.forward_floor, strict=True))

    def numbers(self) -> dict[str, float]:
        """Every known number by name; medians over the rounds."""
        equivalents, least = _median(self.forward_equivalents), self.floor_forward_equivalents
        out: dict[str, float | None] = {
            "seconds": _median(self.seconds),
            "target_tokens_per_second": _median(t / s for t, s in zip(self.tokens, self.seconds, strict=True)),
            "attributions_per_second": _median(e / s for e, s in zip(self.examples, self.seconds, strict=True)),
            "forward_equivalents": equivalents,
            "forward_seconds": _median(self.forward_seconds),
            "floor_forward_equivalents": least,
            "fraction_of_floor": least / equivalents if least and equivalents else None,
            "model_flops_utilisation": self._utilisation(),
            "peak_memory_mb": self.peak_memory_mb,
            "forward_passes": self.passes,
            "products": self.products,
            "matmul_multiply_adds_per_second": self.matmul_rate,
        }
        return {name: float(value) for name, value in out.items() if value is not None}

    def _utilisation(self) -> float | None:
        if self.floor is None or not self.matmul_rate:
            return None
        return _median(f / s / self.matmul_rate for f, s in zip(self.floor, self.seconds, strict=True))


def _median(values: Any) -> float:
    return float(statistics.median(values))


@dataclass(kw_only=True)
class Interleaved:
    """Times work on examples, with forward passes of the same examples right before and after every round.

    Attributes:
        work: What is timed.
        forward: The unit: a teacher-forced forward pass.
        batches: Examples of each round, one after the other: fresh inputs, so that nothing is remembered from the last.
        places: Devices that the model runs on; the first one has the result.
    """

    work: Callable[[list[Example]], Any]
    forward: Callable[[list[Example]], object]
    batches: Iterator[list[Example]]
    places: Sequence[torch.device]
    peak_memory_mb: float = 0.0
    peak_by_device: Mapping[str, float] = field(default_factory=dict)
    used: list[list[Example]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _before: list[float] = field(default_factory=list)
    _after: list[float] = field(default_factory=list)

    def warm_up(self) -> tuple[Any, float]:
        """One round that does not count: lazy set-up, peak memory. Returns its result and seconds."""
        examples = next(self.batches)
        self.forward(examples)
        with PeakMemory(*self.places) as memory:
            result, seconds = timed(lambda: self.work(examples), self.places[0])
        self.peak_memory_mb, self.peak_by_device = memory.megabytes, memory.by_device
        return result, seconds

    def prepare(self) -> list[Example]:
        """The examples of the next round, whose forward pass is timed."""
        examples = next(self.batches)
        self.used.append(examples)
        self._before.append(self._forward(examples))
        return examples

    def run(self, examples: list[Example]) -> Any:
        """The round itself."""
        result, seconds = timed(lambda: self.work(examples), self.places[0])
        self.seconds.append(seconds)
        return result

    def close(self) -> None:
        """Time the forward pass after the round."""
        self._after.append(self._forward(self.used[-1]))

    def round(self) -> Any:
        """All three."""
        result = self.run(self.prepare())
        self.close()
        return result

    def throughput(self, **known: Any) -> Throughput:
        """What was measured; `known` are further fields of `Throughput`."""
        return Throughput(
            seconds=tuple(self.seconds),
            forward_seconds=tuple((a + b) / 2 for a, b in zip(self._before, self._after, strict=True)),
            tokens=tuple(sum(e.n_tokens for e in examples) for examples in self.used),
            examples=tuple(len(examples) for examples in self.used),
            peak_memory_mb=self.peak_memory_mb,
            peak_by_device=self.peak_by_device,
            **known,
        )

    def _forward(self, examples: list[Example]) -> float:
        return forward_time(lambda: self.forward(examples), self.places[0])


def rounds_for(seconds: float, budget: float, least: int, most: int) -> int:
    """How many rounds of so many seconds fit a budget, within bounds; one when it is longer than that alone."""
    return 1 if seconds > budget else max(least, min(most, int(budget / max(seconds, 1e-6))))


def rotate(examples: Sequence[Example], size: int | None = None) -> Iterator[list[Example]]:
    """Slices of `size` examples, one after the other, from the start again when all were used."""
    if not examples:
        raise InputError("there are no examples to measure")
    size, at = min(size or len(examples), len(examples)), 0
    while True:
        yield [examples[(at + i) % len(examples)] for i in range(size)]
        at = (at + size) % len(examples)


def measure_method(
    model: AttributionModel,
    method: str,
    options: Mapping[str, Any],
    batches: Iterator[list[Example]],
    *,
    work: Work | None,
    batch_size: int | None = None,
    seed: int = 0,
    budget: float = 2.0,
    rounds: tuple[int, int] = (3, 9),
) -> Throughput:
    """Throughput of an attribution method.

    Args:
        model: The model.
        method: Name in the registry.
        options: Options of the method.
        batches: Examples of each round.
        work: Multiply-adds of the model, for the floor.
        batch_size: Examples per batch; None lets the engine choose.
        seed: Of methods that draw random numbers.
        budget: Seconds to spend on rounds.
        rounds: Least and most rounds; a single one when a round takes longer than the budget.
    """
    measured = interleaved_method(model, method, options, batches, batch_size=batch_size, seed=seed)
    found, seconds = measured.warm_up()
    begin, least = time.monotonic(), rounds[0]
    for number in range(rounds_for(seconds, budget, *rounds)):
        if number >= least and time.monotonic() - begin > 2 * budget:
            break
        measured.round()
    return method_throughput(model, method, options, measured, found, work)


def interleaved_method(
    model: AttributionModel,
    method: str,
    options: Mapping[str, Any],
    batches: Iterator[list[Example]],
    *,
    batch_size: int | None = None,
    seed: int = 0,
) -> Interleaved:
    """An attribution method, ready to be timed."""

    def attribute(examples: list[Example]) -> list[Attribution]:
        return model.attribute_examples(
            examples, method, batch_size=batch_size, seed=seed, show_progress=False, **options
        )

    return Interleaved(
        work=attribute,
        forward=lambda examples: model.teacher_forced(examples, batch_size=batch_size),
        batches=batches,
        places=model.wrapped.devices,
    )


def method_throughput(
    model: AttributionModel,
    method: str,
    options: Mapping[str, Any],
    measured: Interleaved,
    found: Sequence[Attribution],
    work: Work | None,
) -> Throughput:
    """What was measured, with the floor of the method and what its attributions counted."""
    return measured.throughput(
        matmul_rate=matmul_rate(model.device, model.dtype),
        passes=statistics.mean(a.provenance.forward_rows for a in found),
        products=statistics.mean(a.provenance.backward_rows for a in found),
        **(floors_of(method, options, measured.used, work) if work is not None else {}),
    )


def floors_of(
    method: str, options: Mapping[str, Any], rounds: Sequence[Sequence[Example]], work: Work
) -> dict[str, tuple[float, ...]]:
    """Fewest multiply-adds per round of a method with its defaults and options, and of a forward pass."""
    from attriflow.registry import methods

    given = {**methods.info(method).options, **options}
    problems = [[Problem.of_example(work, e) for e in examples] for examples in rounds]
    spanned = any(e.spans is not None for examples in rounds for e in examples)  # counted for tokens only
    least = [None if spanned else total(method, given, p) for p in problems]
    out = {"forward_floor": tuple(sum(p.forward() for p in part) for part in problems)}
    return out if None in least else {**out, "floor": tuple(f for f in least if f is not None)}
