"""Merge the tokens of the caller's segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from attriflow.aggregation._parts import PartsMerger
from attriflow.registry import aggregators
from attriflow.texts.segments import Part, read_segments
from attriflow.texts.units import parts_of
from attriflow.types import Attribution


@aggregators.register("segments")
@dataclass(frozen=True, kw_only=True)
class SegmentsAggregator(PartsMerger):
    """One token per segment of the input; tokens outside segments stay as they are.

    Attributes:
        aggregate_fn: Function for the scores of a segment: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        aggregate_source: Merge tokens of the source, or of a decoder-only model's prompt.
        aggregate_target: Merge the whole generated text, too: one step. Otherwise generated tokens stay as they are.
        segments: Substrings of the input in their order, or (start, end) pairs of characters; None takes the segments
            that were given to `attribute`.
    """

    name: ClassVar[str] = "segments"
    segments: Sequence[str | tuple[int, int]] | None = None

    def parts(self, attribution: Attribution) -> Sequence[Part]:
        """Spans of the segments."""
        if self.segments is not None:
            return read_segments([attribution.input_text], [self.segments])[0]
        return parts_of(attribution, "segment")
