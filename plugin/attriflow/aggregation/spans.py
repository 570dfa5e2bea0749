"""Merge ranges of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attriflow.aggregation._sides import Spans, covering, on_both_sides, sides_of
from attriflow.aggregation._spans import SpanMerger
from attriflow.registry import aggregators
from attriflow.types import Attribution


@aggregators.register("spans")
@dataclass(frozen=True, kw_only=True)
class SpansAggregator(SpanMerger):
    """One token per given range of positions; tokens outside the ranges stay as they are.

    Attributes:
        aggregate_fn: Function for the scores of a range: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        source_spans: Pair (start, end) of positions in the source, or in a decoder-only model's prompt, or several.
        target_spans: The same for decoder tokens: of decoder-only models the prompt and what was generated.
    """

    name: ClassVar[str] = "spans"
    source_spans: Spans | None = None
    target_spans: Spans | None = None

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with merged tokens; the one given is not changed."""
        sides = sides_of(attribution)
        source, decoder = on_both_sides(sides, self.source_spans, self.target_spans)
        return self.merge(attribution, covering(source, len(sides.source)), covering(decoder, len(sides.decoder)))
