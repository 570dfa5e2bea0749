"""What an evaluation will send through the model and about how long it will take, told before it starts.

Metrics plan their changed inputs on a stand-in, an explanation with random positive scores: real ones have as many or
fewer distinct changes. Each method explains one example, which also warms it up, and tells how many passes it needed. A
backward pass counts as two forward passes. The time of a pass is that of teacher-forced passes over some examples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.engine.sizes import Sizes, planned
from attriflow.errors import printable
from attriflow.evaluation.chance import curved, orders, stand_in
from attriflow.evaluation.reexplaining import spread
from attriflow.evaluation.scoring import MetricRunner
from attriflow.evaluation.selection import part_of
from attriflow.evaluation.work import BLOCK
from attriflow.kernels.devices import free_memory
from attriflow.measuring.cost import forward_time
from attriflow.progress import duration
from attriflow.types import Attribution, Example, Variant

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

LONG = 360.0
"""Seconds from which device hours and workers are told."""
SAMPLE = 16
"""Examples that a plan looks at; the others are taken to be like them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Passes of an evaluation, in sequences sent through the model.

    Attributes:
        n_examples, n_steps, n_methods, n_metrics: What is evaluated.
        explaining: Of all methods over all examples; what could not be tried is left out.
        n_again, again: Explanations made again for metrics, at most, and their passes.
        shared: Changed inputs that all methods have in common, scored once.
        changed: Changed inputs of all methods that depend on their explanations, at most.
        chance: Those of random orders, for metrics with curves.
        untried: Methods whose passes are not known.
        unplanned: Metrics that score changed inputs and have no `plan` that tells which.
        costliest: The method and the metric that take most, their share of the passes and what would at least halve
            it. A change that several metrics ask for counts for each of them.
        seconds_per_pass: Measured; None when it was not.
        memory: Bytes beyond the weights that explaining a batch takes, by the methods' formulas, at most.
        hungriest: The method that takes them; "" where none takes any.
        free: Bytes that are there now.
    """

    n_examples: int
    n_steps: int
    n_methods: int
    n_metrics: int
    explaining: float
    n_again: int
    again: float
    shared: float
    changed: float
    chance: float = 0.0
    untried: tuple[str, ...] = ()
    unplanned: tuple[str, ...] = ()
    costliest: tuple[str, ...] = ()
    seconds_per_pass: float | None = None
    memory: float = 0.0
    hungriest: str = ""
    free: float = 0.0

    @property
    def passes(self) -> float:
        """All of them."""
        return self.explaining + self.again + self.scored

    @property
    def scored(self) -> float:
        """Changed inputs of all kinds."""
        return self.shared + self.changed + self.chance

    @property
    def seconds(self) -> float | None:
        """Time of all passes; None when it was not measured."""
        return None if self.seconds_per_pass is None else self.passes * self.seconds_per_pass

    def seconds_with(self, workers: int) -> float:
        """Time in the model with workers, who do whole blocks; what explains again and random orders stay with one."""
        if self.seconds_per_pass is None:
            raise ValueError("the time of a pass was not measured")
        alone, blocks = self.again + self.chance, math.ceil(self.n_examples / BLOCK)
        return self.seconds_per_pass * (alone + (self.passes - alone) * math.ceil(blocks / workers) / blocks)

    def _of_workers(self) -> str:
        """Device hours, and what more workers would take, where that is worth knowing."""
        if self.seconds is None or self.seconds < LONG:
            return ""
        many = [n for n in (2, 4, 8, 64) if n <= math.ceil(self.n_examples / BLOCK)]
        each = "".join(f"; {n} workers: {duration(self.seconds_with(n))}" for n in many)
        return f"\n      {self.seconds / 3600:,.3g} device hours{each}"

    def __str__(self) -> str:
        """Two to four lines for the console."""
        parts = [f"{_count(self.explaining)} to explain"] if len(self.untried) < self.n_methods else []
        if self.again:
            parts.append(f"{_count(self.again)} to explain again")
        if self.scored:
            parts.append(f"{_count(self.scored)} for changed inputs")
        time_ = "" if self.seconds is None else f", about {duration(self.seconds)} in the model"
        untried = ("explaining",) if len(self.untried) == self.n_methods else self.untried
        unplanned = [f"{name} (no plan)" for name in self.unplanned]
        uncounted = f"; not counted: {', '.join([*untried, *unplanned])}" if untried or unplanned else ""
        kinds = f" ({', '.join(parts)})" if parts else ""
        most = f"\n      costliest: {'; '.join(self.costliest)}" if self.costliest else ""
        needed = f"{_bytes(self.memory)} beyond the weights ({self.hungriest}), {_bytes(self.free)} free"
        room = f"\n      memory: up to {needed}" if self.hungriest else ""
        return (
            f"plan: {self.n_methods} methods x {self.n_examples} examples ({self.n_steps} steps), "
            f"{self.n_metrics} metrics\n"
            f"      {_count(self.passes)} forward passes{kinds}{time_}{uncounted}{room}{self._of_workers()}{most}"
        )


def make_plan(
    model: AttributionModel,
    examples: Sequence[Example],
    methods: Mapping[str, Callable[[Example], Attribution] | None],
    runner: MetricRunner,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Count, and try what must be tried.

    Args:
        model, examples: What is explained.
        methods: Name -> explains one example; None for methods that are not to be tried.
        runner: The metrics.
        options: Method or metric -> its options, defaults included, among which those that cost are looked for.
        batch_size: Examples per batch; by length when None.
    """

    def count(variants: Sequence[tuple[int, Variant]]) -> float:
        return share * model.count_rows(examples, variants, attribute_target=runner.scorer.attribute_target)

    indices = spread(len(examples), SAMPLE)
    share = len(examples) / len(indices)
    stand_ins = {i: stand_in(examples[i], runner.scorer.attribute_target) for i in indices}
    planned = [runner.planned(runner.metrics, stand_ins, indices, shared) for shared in (True, False)]
    shared, every = count(planned[0]), count([*planned[0], *planned[1]])
    drawn = [dict(zip(indices, order, strict=True)) for order in orders([examples[i] for i in indices], runner)]
    of_chance = [v for order in drawn for v in runner.planned(curved(runner), order, indices, False)]
    by_chance = count([*planned[0], *of_chance]) - shared
    typical = sorted(examples, key=lambda e: e.n_steps * len(e.target))[len(examples) // 2]
    passes, untried = {}, []
    for name, explain in methods.items():
        needed = None if explain is None else _tried(explain, typical)
        if needed is None:
            untried.append(name)
        else:
            passes[name] = needed
    sample = 0 if runner.reexplainer is None else len(runner.reexplainer.sample)
    again, explaining = len(runner.changes()) * sample, sum(passes.values())
    of_metrics = {
        name: sample * len(runner.changes([name])) * explaining
        + count(runner.planned([name], stand_ins, indices, True))
        + count(runner.planned([name], stand_ins, indices, False)) * len(methods)
        for name in runner.metrics
    }
    of_methods = {name: n * len(examples) for name, n in passes.items()}
    every_pass = explaining * (len(examples) + again) + shared + (every - shared) * len(methods) + by_chance
    fewer = {
        name: f"reexplain_examples={sample // 2}" for name in runner.metrics if runner.changes([name]) and sample > 1
    }
    fewer |= {name: found for name, given in (options or {}).items() if (found := _half(given)) is not None}
    memory, hungriest = _memory(model, examples, {name: (options or {}).get(name, {}) for name in methods}, batch_size)
    return Plan(
        n_examples=len(examples),
        n_steps=sum(e.n_steps for e in examples),
        n_methods=len(methods),
        n_metrics=len(runner.metrics),
        explaining=explaining * len(examples),
        n_again=again * len(methods),
        again=explaining * again,
        shared=shared,
        changed=(every - shared) * len(methods),
        chance=by_chance,
        untried=tuple(untried),
        unplanned=tuple(
            name
            for name, metric in runner.metrics.items()
            if "rescore" in runner.parts[name].meta["needs"] and not hasattr(metric, "plan")
        ),
        costliest=tuple(
            _costliest(kind, costs, every_pass, fewer)
            for kind, costs in (("method", of_methods), ("metric", of_metrics))
            if max(costs.values(), default=0) > 0
        ),
        seconds_per_pass=_seconds_per_pass(model, [examples[i] for i in indices]),
        memory=memory,
        hungriest=hungriest,
        free=sum(map(free_memory, model.wrapped.devices)),
    )


def _memory(
    model: AttributionModel,
    examples: Sequence[Example],
    options: Mapping[str, Mapping[str, Any]],
    batch_size: int | None,
) -> tuple[float, str]:
    """Bytes that the largest batch takes, and of which method."""
    some = [e for e in examples if e.n_steps]
    batches = [Sizes.of_examples(model.wrapped, [some[i] for i in b]) for b in model.plan_batches(some, batch_size)]
    return max(
        ((planned(part_of(name), given, sizes), name) for name, given in options.items() for sizes in batches),
        default=(0.0, ""),
    )


def _half(options: Mapping[str, Any]) -> str | None:
    """The first option that counts something (samples, points of a path, draws), with half its value."""
    counts = (
        (name, value) for name, value in options.items() if name.startswith(("n_", "num_")) and type(value) is int
    )
    return next((f"{name}={value // 2}" for name, value in counts if value > 1), None)


def _costliest(kind: str, costs: Mapping[str, float], every: float, fewer: Mapping[str, str]) -> str:
    name = max(costs, key=lambda n: costs[n])
    less = f"{fewer[name]} would at least halve it" if name in fewer else "fewer examples take less"
    return f"{kind} {name} ({costs[name] / every:.0%} of the passes; {less})"


def _tried(explain: Callable[[Example], Attribution], example: Example) -> float | None:
    """Passes for an example; None when it fails, which is reported when the method has its turn."""
    try:
        made = explain(example).provenance
    except Exception:
        return None
    return made.forward_rows + 2 * made.backward_rows


def _seconds_per_pass(model: AttributionModel, examples: Sequence[Example]) -> float:
    model.teacher_forced(examples)  # warm-up
    return forward_time(lambda: model.teacher_forced(examples), model.device) / len(examples)


_SAYS: ContextVar[bool] = ContextVar("says", default=True)


def say(text: str) -> None:
    """Tell the user, beside whatever is logged."""
    if _SAYS.get():
        print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def unsaid() -> Iterator[None]:
    """Nothing is told in this thread: one of many small evaluations."""
    token = _SAYS.set(False)
    try:
        yield
    finally:
        _SAYS.reset(token)


def _count(n: float) -> str:
    return f"{round(n):,}".replace(",", " ")


def _bytes(n: float) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{max(1, round(n / 2**20))} MiB"
