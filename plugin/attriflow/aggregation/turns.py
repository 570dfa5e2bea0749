"""Merge the tokens of the turns of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from attriflow.aggregation._parts import PartsMerger
from attriflow.registry import aggregators
from attriflow.texts.segments import Part
from attriflow.texts.units import parts_of
from attriflow.types import Attribution


@aggregators.register("turns")
@dataclass(frozen=True, kw_only=True)
class TurnsAggregator(PartsMerger):
    """One token per turn of the chat that was explained, its markers included; the reply stays a step per token.

    Attributes:
        aggregate_fn: Function for the scores of a turn: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        aggregate_source: Merge the tokens of the chat's turns.
        aggregate_target: Merge the reply, too: one step. Otherwise generated tokens stay as they are.
    """

    name: ClassVar[str] = "turns"

    def parts(self, attribution: Attribution) -> Sequence[Part]:
        """Spans of the turns."""
        return parts_of(attribution, "turn")
