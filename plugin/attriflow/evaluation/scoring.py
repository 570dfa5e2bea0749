"""All metrics of one method: planned ahead, rescored in full batches, one failure at a time."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from attriflow.errors import InputError, MissingExtraError, no_memory, reason_of
from attriflow.evaluation.changes import NotApplicableError
from attriflow.evaluation.reexplaining import Reexplainer
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.results import ExampleValues, MethodResult, normalise, skipped_example
from attriflow.registry import PartInfo, metric_call
from attriflow.statistics.ranking import NOT_APPLICABLE
from attriflow.types import Attribution, Variant

EXAMPLES_AT_ONCE = 16
"""Examples whose changed inputs are scored together and held in memory."""
NAMED = 10
"""Failed examples that are named per reason; the table `scores` has all."""
CHANGED = "changed inputs"
"""What all metrics need of the model, scored ahead."""
NOT_IN_SAMPLE = "not among the examples that are explained again"
_logger = logging.getLogger(__name__)
Values = dict[str, list[ExampleValues]]
"""Metric -> values per example."""
Failed = dict[str, dict[int, str]]
"""Metric -> number of an example -> why it failed there."""
Seeded = list[dict[str, dict[int, float | None]]] | None
"""See `MethodResult.seeded`."""


class MetricRunner:
    """Computes metrics of methods over the same examples, sharing what does not depend on the method.

    Attributes:
        seconds: Time spent so far, that of the model included.
        spent: Where the time of the last `scored` or `again` went: metric, or `CHANGED` -> seconds.
        no_memory: Whether memory has run out for a metric.
    """

    def __init__(
        self,
        parts: Sequence[PartInfo],
        options: Mapping[str, Mapping[str, Any]],
        scorer: VariantScorer,
        rationales: Sequence[Tensor | None],
        fail_fast: bool = False,
        reexplainer: Reexplainer | None = None,
    ) -> None:
        self.parts = {p.name: p for p in parts}
        self.metrics = {p.name: p.build(**options.get(p.name, {})) for p in parts}
        self._calls = {name: metric_call(name, metric) for name, metric in self.metrics.items()}
        self.scorer, self.rationales, self.fail_fast = scorer, rationales, fail_fast
        self.reexplainer, self.seconds, self.spent = reexplainer, 0.0, dict[str, float]()
        self.no_memory = False

    def score(self, result: MethodResult) -> None:
        """Fill in the values and problems of a method that has explained the data set."""
        values, failed = self.scored(result.attributions)
        more, seeded = self.again(result, dict(enumerate(result.attributions)), values, failed)
        self.conclude(result, more, failed, seeded)

    def scored(self, attributions: Sequence[Attribution]) -> tuple[Values, Failed]:
        """Values of the metrics that do not explain again, and the examples on which each failed."""
        started, self.spent = time.perf_counter(), {}
        names = [n for n in self.metrics if self.reexplainer is None or not self._explains_again(n)]
        found = self._values(names, attributions)
        self.seconds += time.perf_counter() - started
        return found

    def again(
        self, result: MethodResult, attributions: Mapping[int, Attribution], values: Values, failed: Failed
    ) -> tuple[Values, Seeded]:
        """Add the values of metrics that explain again, for the examples of their sample.

        Args:
            result: The method.
            attributions: By example; those of the sample.
            values, failed: What `scored` gave for all examples; `failed` gets more.

        Returns:
            The values of all metrics, in their order, and `MethodResult.seeded`.
        """
        started, again, self.spent = time.perf_counter(), self.reexplainer, {}
        if again is None:
            return {name: values[name] for name in self.metrics}, None
        again.start(result.name, attributions)
        names = [n for n in self.metrics if self._explains_again(n)]
        found = {name: [self._left_out(name, i) for i in range(len(self.rationales))] for name in names}
        failed |= {name: dict[int, str]() for name in names}
        for begin in range(0, len(again.sample), EXAMPLES_AT_ONCE):
            indices = again.sample[begin : begin + EXAMPLES_AT_ONCE]
            self._prefetch([n for n in names if not begin or len(failed[n]) < begin], attributions, indices)
            for name, i in itertools.product(names, indices):
                found[name][i] = self._guarded(name, i, attributions[i], failed[name])
            self.scorer.release()
        spent = self.spent.copy()
        seeded, self.spent = self._under_other_seeds(result, attributions), spent
        self.seconds += time.perf_counter() - started
        known = {**values, **found}
        return {name: known[name] for name in self.metrics}, seeded

    def conclude(self, result: MethodResult, values: Values, failed: Failed, seeded: Seeded) -> None:
        """Tell a method's result what was found, and the user what failed."""
        result.values, result.seeded = values, seeded
        for name, found in values.items():
            if failed[name]:
                what, n = next(iter(failed[name].values())), f"{len(failed[name])} of {len(found)} examples"
                _logger.warning("metric '%s' failed on '%s': %s (in %s)", name, result.name, what, n)
                if len(failed[name]) < len(found):
                    result.failures[name] = _which(failed[name])
            if found and all(v.mean is None for v in found):
                reasons = sorted({reason for v in found for reason in v.skipped.values()} - {NOT_IN_SAMPLE})
                prefix = "" if set(reasons) <= set(failed[name].values()) else "no value for any step: "
                result.problems[name] = f"{prefix}{'; '.join(reasons)}"

    def values(self, names: Sequence[str], attributions: Sequence[Attribution]) -> dict[str, list[ExampleValues]]:
        """Values of some metrics for explanations of all examples that are no method's."""
        started = time.perf_counter()
        found, _ = self._values(names, attributions)
        self.seconds += time.perf_counter() - started
        return found

    def _values(self, names: Sequence[str], attributions: Sequence[Attribution]) -> tuple[Values, Failed]:
        """Values per metric, and the examples on which each failed."""
        values = {name: list[ExampleValues]() for name in names}
        failed = {name: dict[int, str]() for name in names}
        for begin in range(0, len(attributions), EXAMPLES_AT_ONCE):
            indices = range(begin, min(begin + EXAMPLES_AT_ONCE, len(attributions)))
            self._prefetch([n for n in values if not begin or len(failed[n]) < begin], attributions, indices)
            for name, i in itertools.product(values, indices):
                values[name].append(self._guarded(name, i, attributions[i], failed[name]))
            self.scorer.release()
        return values, failed

    def _under_other_seeds(self, result: MethodResult, attributions: Mapping[int, Attribution]) -> Seeded:
        """Metrics of explanations under the seeds that a metric asked for, see `MethodResult.seeded`."""
        seeds = [change for change in self.changes() if set(change) == {"seed"}]
        if self.reexplainer is None or not seeds or result.family == "control":
            return None
        sample = self.reexplainer.sample
        names = [n for n in self.metrics if not self._explains_again(n)]
        out = []
        for change in seeds:
            try:
                others = {i: self.reexplainer.for_example(i)(**change) for i in sample}
            except Exception as error:  # the metric that asked for it says so
                _logger.debug("'%s' has no explanation under another seed: %s", result.name, error)
                return None
            if all(others[i] is attributions[i] for i in sample):
                return []
            found: dict[str, dict[int, float | None]] = {name: {} for name in names}
            for begin in range(0, len(sample), EXAMPLES_AT_ONCE):
                indices = sample[begin : begin + EXAMPLES_AT_ONCE]
                self._prefetch(names, others, indices)
                for name, i in itertools.product(names, indices):
                    found[name][i] = self._guarded(name, i, others[i], {}).mean
                self.scorer.release()
            out.append(found)
        return out

    def _prefetch(
        self,
        names: Sequence[str],
        attributions: Sequence[Attribution] | Mapping[int, Attribution],
        indices: Sequence[int],
    ) -> None:
        began = time.perf_counter()
        try:
            for shared in (True, False):
                self.scorer.prefetch(self.planned(names, attributions, indices, shared), shared=shared)
        except Exception as error:
            # not the place to judge: each metric asks for its scores itself, and fails on its own account
            _logger.debug("planning ahead failed: %s", error)
        self._spend(CHANGED, began)

    def _spend(self, what: str, began: float) -> None:
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - began

    def planned(
        self,
        names: Iterable[str],
        attributions: Sequence[Attribution] | Mapping[int, Attribution],
        indices: Sequence[int],
        shared: bool,
    ) -> list[tuple[int, Variant]]:
        """The changed inputs that metrics will ask for: those that are the same for every method, or the others."""
        return [
            (i, variant)
            for name in names
            if self.parts[name].meta["shared"] is shared and hasattr(self.metrics[name], "plan")
            for i in indices
            if not self._without_rationale(name, i)
            for variant in self.metrics[name].plan(attributions[i])
        ]

    def changes(self, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Changed circumstances in which methods will explain again for some metrics (None: all), each once."""
        found: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        for name in self.metrics if names is None else names:
            metric = self.metrics[name]
            if self._explains_again(name) and hasattr(metric, "changes"):
                found |= {tuple(sorted(change.items())): dict(change) for change in metric.changes()}
        return list(found.values())

    def _explains_again(self, name: str) -> bool:
        return "reexplain" in self.parts[name].meta["needs"]

    def _left_out(self, name: str, index: int) -> ExampleValues:
        """Of an example that is not in the sample."""
        why = "no rationale in this row" if self._without_rationale(name, index) else NOT_IN_SAMPLE
        return skipped_example(self.scorer.examples[index].n_steps, why)

    def _without_rationale(self, name: str, index: int) -> bool:
        return "rationale" in self.parts[name].meta["needs"] and self.rationales[index] is None

    def _guarded(self, name: str, index: int, attribution: Attribution, failed: dict[int, str]) -> ExampleValues:
        """A metric's values for one example; where it raises, none and the reason, which `failed` gets as well."""
        began = time.perf_counter()
        try:
            return self._value(name, index, attribution)
        except MissingExtraError:
            raise  # not this metric's failure: nothing that was asked for can be computed here
        except Exception as error:
            if self.fail_fast:
                raise
            _logger.debug("metric '%s' failed on example %d", name, index, exc_info=True)
            failed[index], self.no_memory = reason_of(error), self.no_memory or no_memory(error)
            return skipped_example(len(attribution.targets), failed[index])
        finally:
            self._spend(name, began)

    def _value(self, name: str, index: int, attribution: Attribution) -> ExampleValues:
        n_steps = len(attribution.targets)
        if self._without_rationale(name, index):
            return skipped_example(n_steps, "no rationale in this row")
        given: dict[str, Any] = {
            "attribution": attribution,
            "rescore": self.scorer.for_example(index),
            "rationale": self.rationales[index],
            "reexplain": None,
        }
        if self._explains_again(name):
            if self.reexplainer is None:
                raise InputError(f"metric '{name}' explains again, for which this evaluation is not prepared")
            given["reexplain"] = self.reexplainer.for_example(index)
        call = self._calls[name]
        by_name = {parameter: given[what] for parameter, what in call.by_name.items()}
        try:
            out = self.metrics[name](*(given[what] for what in call.in_order), **by_name)
        except NotApplicableError as error:
            return skipped_example(n_steps, f"{NOT_APPLICABLE}{error}")
        return normalise(out, n_steps)


def _which(failed: Mapping[int, str]) -> str:
    """The examples that failed, by reason: "failed on example 3, 7: ValueError: ..."."""
    by_reason: dict[str, list[int]] = {}
    for index, reason in failed.items():
        by_reason.setdefault(reason, []).append(index)
    shown = {reason: ", ".join(map(str, found[:NAMED])) for reason, found in by_reason.items()}
    more = {reason: ", ..." if len(found) > NAMED else "" for reason, found in by_reason.items()}
    return "; ".join(f"failed on example {shown[reason]}{more[reason]}: {reason}" for reason in by_reason)
