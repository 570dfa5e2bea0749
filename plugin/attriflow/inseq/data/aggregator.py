"""Aggregators under Inseq's names: classes stand for attriflow's aggregators, which do the work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from attriflow.registry import aggregation_functions, aggregators


class Aggregator:
    """A name for one of attriflow's aggregators."""

    aggregator_name: ClassVar[str] = ""

    @classmethod
    def aggregate(cls, tensors: Any, **options: Any) -> Any:
        """The same as `tensors.aggregate(cls, **options)`."""
        return tensors.aggregate(cls, **options)


class SequenceAttributionAggregator(Aggregator):
    """One score per token."""

    aggregator_name = "scores"


class ContiguousSpanAggregator(Aggregator):
    """Given spans of tokens merged."""

    aggregator_name = "spans"


class SubwordAggregator(Aggregator):
    """Pieces of words merged."""

    aggregator_name = "subwords"


class PairAggregator(Aggregator):
    """The change from one attribution to another."""

    aggregator_name = "pair"


class SliceAggregator(Aggregator):
    """Ranges of the input."""

    aggregator_name = "slices"


class StringSplitAggregator(Aggregator):
    """Parts of the input between matches of a pattern."""

    aggregator_name = "split"


Step = str | type[Aggregator]


class AggregatorPipeline:
    """Aggregators in their order, each with a function of its own if wanted."""

    def __init__(
        self, aggregators: Sequence[Step], aggregate_fn: Sequence[str | Callable[..., Any]] | None = None
    ) -> None:
        """Hold them."""
        if aggregate_fn is not None and len(aggregate_fn) != len(aggregators):
            raise ValueError(f"{len(aggregators)} aggregators but {len(aggregate_fn)} functions in aggregate_fn")
        self.aggregators, self.aggregate_fn = list(aggregators), aggregate_fn

    def aggregate(self, tensors: Any, **options: Any) -> Any:
        """The same as `tensors.aggregate(pipeline, **options)`."""
        return tensors.aggregate(self, **options)


_NOT_ASKED = ("do_pre_aggregation_checks", "do_post_aggregation_checks", "special_chars", "is_suffix_symbol")
"""Options that attriflow does without: every attribution is consistent, words are found by their characters."""


def steps_of(aggregator: Any, aggregate_fn: Any) -> list[Any]:
    """Aggregators in any of Inseq's forms as steps of attriflow's."""
    if isinstance(aggregator, AggregatorPipeline):
        aggregator, aggregate_fn = aggregator.aggregators, aggregator.aggregate_fn
    several = isinstance(aggregator, (list, tuple))
    given: list[Any] = list(aggregator) if several else [aggregator]
    functions: list[Any] = list(aggregate_fn) if several and aggregate_fn is not None else [aggregate_fn] * len(given)
    return [_step(one, function) for one, function in zip(given, functions, strict=True)]


def _step(one: Any, function: Any) -> Any:
    if isinstance(one, (list, tuple)):
        one, function = one[0], one[1] if len(one) > 1 else function
    name = one.aggregator_name if isinstance(one, type) and issubclass(one, Aggregator) else one
    return name if function is None else (name, function)


def options_of(steps: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that some step takes; a warning for others, which Inseq passes over in silence."""
    names = [step[0] if isinstance(step, tuple) else step for step in steps]
    names = ["scores" if name in aggregation_functions else name for name in names]
    taken = {option for name in names if isinstance(name, str) for option in aggregators.info(name).options}
    unknown = [name for name in options if name not in taken and name not in _NOT_ASKED]
    if unknown:
        warnings.warn(f"no aggregator of {names} takes {', '.join(unknown)}: ignored", stacklevel=4)
    return {k: v for k, v in options.items() if k in taken and v is not None}
