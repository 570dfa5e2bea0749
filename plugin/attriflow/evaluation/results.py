"""What an evaluation finds out, as it finds it out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attriflow.errors import InputError, reason_of
from attriflow.measuring.cost import Cost
from attriflow.statistics.ranking import NOT_APPLICABLE
from attriflow.types import Attribution, MetricValues


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleValues:
    """A metric's values for one example: one per step, or (`per_step` False) one for the whole explanation.

    `curves` are those that `MetricValues` has, by step.
    """

    values: tuple[float | None, ...]
    skipped: Mapping[int, str] = field(default_factory=dict)
    per_step: bool = True
    curves: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean over the steps that have a value; None when none has."""
        known = [v for v in self.values if v is not None]
        return math.fsum(known) / len(known) if known else None


def normalise(result: Any, n_steps: int) -> ExampleValues:
    """What a metric returned in one form: `MetricValues`, a number, or a number (or None) per step.

    A value that is not finite is no value: the step is skipped and counted.
    """
    curves: Mapping[int, tuple[tuple[float, float], ...]] = {}
    if isinstance(result, MetricValues):
        values, skipped, per_step = list(result.values), dict(result.skipped), result.per_step
        curves = result.curves
    else:
        if hasattr(result, "tolist"):
            result = result.tolist()
        per_step = isinstance(result, Sequence) and not isinstance(result, str)
        values, skipped = list(result) if per_step else [result], {}
    if per_step and len(values) != n_steps:
        raise InputError(f"a metric returned {len(values)} values for {n_steps} steps")
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, (int, float)):
            raise InputError(f"a metric must return numbers, not {value!r}")
        values[i] = float(value) if value is not None and math.isfinite(value) else None
        if values[i] is None:
            skipped.setdefault(i, "no value" if value is None else f"not finite ({value})")
    return ExampleValues(values=tuple(values), skipped=skipped, per_step=per_step, curves=curves)


def skipped_example(n_steps: int, reason: str) -> ExampleValues:
    """An example for which a metric cannot say anything."""
    return ExampleValues(values=(None,) * n_steps, skipped=dict.fromkeys(range(n_steps), reason))


def mean_over_examples(examples: Sequence[ExampleValues]) -> float | None:
    """Mean over examples of their means over steps: long targets weigh no more than short ones."""
    means = [m for e in examples if (m := e.mean) is not None]
    return math.fsum(means) / len(means) if means else None


@dataclass(kw_only=True)
class MethodResult:
    """Everything about one method so far.

    Attributes:
        status: "ok" or "failed"; a failed method has a `reason` and no metrics.
        unsigned: Whether no score is negative.
        seeded: Its metrics under other seeds, metric -> example -> mean over steps: empty for a method that draws
            nothing, None where nobody asked for other seeds.
        same_as: An earlier method with the same explanations of this data.
        values: Metric -> values per example.
        problems: Metric -> why it has no value for this method.
        failures: Metric -> the examples on which it failed, and why, where it has values for others.
        facts: What its card says of the explanations, see `summarised`.
    """

    name: str
    family: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    status: str = "ok"
    reason: str = ""
    attributions: list[Attribution] = field(default_factory=list)
    cost: Cost | None = None
    values: dict[str, list[ExampleValues]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    same_as: str = ""
    unsigned: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    seeded: list[dict[str, dict[int, float | None]]] | None = None

    @property
    def ok(self) -> bool:
        """Whether the method explained the data set."""
        return self.status == "ok"

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> mean over examples; metrics without any value are left out."""
        means = {name: mean_over_examples(values) for name, values in self.values.items()}
        return {name: value for name, value in means.items() if value is not None}

    @property
    def counts(self) -> dict[str, int]:
        """Metric -> number of examples with a value."""
        return {name: sum(v.mean is not None for v in values) for name, values in self.values.items()}

    def applies(self, metric: str) -> bool:
        """Whether a metric says something about this method at all."""
        reasons = {reason for v in self.values.get(metric, ()) for reason in v.skipped.values()}
        return not any(reason.startswith(NOT_APPLICABLE) for reason in reasons)

    @property
    def skipped(self) -> dict[str, int]:
        """Metric -> number of steps without a value."""
        return {name: sum(len(v.skipped) for v in values) for name, values in self.values.items()}

    def fail(self, error: BaseException | str) -> None:
        """Mark the method as failed. Keeps no reference to the error, whose traceback would hold on to memory."""
        self.status, self.reason = "failed", error if isinstance(error, str) else reason_of(error)
        self.attributions, self.values, self.seeded = [], {}, None


def facts_of(attributions: Sequence[Attribution]) -> dict[str, Any]:
    """What a card says of explanations, which are not kept: see `summarised`."""
    made = [a.provenance for a in attributions]
    names = [name for name in ("n_steps", "residual") if any(name in a.step_scores for a in attributions)]
    return {
        "baselines": {i: t for p in made for i, t in zip(p.baseline_ids, p.baseline_tokens, strict=False)},
        "forward_passes": [p.forward_rows for p in made],
        "backward_passes": [p.backward_rows for p in made],
        **{n: [v for a in attributions if n in a.step_scores for v in a.step_scores[n].tolist()] for n in names},
    }


def summarised(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of blocks of explanations as those of all: baselines, means of passes, medians over steps."""
    tokens = {int(i): t for part in facts for i, t in part["baselines"].items()}
    out: dict[str, Any] = {"baselines": dict(sorted(tokens.items()))}
    for name in ("forward_passes", "backward_passes"):
        if values := [v for part in facts for v in part[name]]:
            out[name] = math.fsum(values) / len(values)
    for name in ("n_steps", "residual"):
        if values := [v for part in facts for v in part.get(name, ()) if math.isfinite(v)]:
            out[name] = statistics.median(values)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """A step function over the data set: one list of finite numbers (None: not finite) per example."""

    name: str
    unit: str = ""
    values: tuple[tuple[float | None, ...], ...] = ()
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over examples of their means over steps."""
        return mean_over_examples([ExampleValues(values=v) for v in self.values])


@dataclass(frozen=True, slots=True)
class StepScored:
    """Event: the step functions have been computed."""

    step_scores: Sequence[StepScores]


@dataclass(frozen=True, slots=True)
class Attributed:
    """Event: a method has explained the data set and its cost is known."""

    result: MethodResult


@dataclass(frozen=True, slots=True)
class Finished:
    """Event: a method's metrics are computed, or it has failed."""

    result: MethodResult


Event = StepScored | Attributed | Finished
