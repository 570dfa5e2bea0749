"""Merge the tokens of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from attriflow.aggregation._spans import UnitMerger
from attriflow.registry import aggregators
from attriflow.texts.units import unit_numbers
from attriflow.types import Attribution, Token


@aggregators.register("sentences")
@dataclass(frozen=True, kw_only=True)
class SentencesAggregator(UnitMerger):
    """One token per sentence, of the input and of the generated text (see `attriflow.texts.segments.sentences`).

    Attributes:
        aggregate_fn: Function for the scores of a sentence: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        aggregate_source: Merge tokens of the source, or of a decoder-only model's prompt.
        aggregate_target: Merge generated tokens, and with them steps.
    """

    name: ClassVar[str] = "sentences"

    def units(self, attribution: Attribution, tokens: Sequence[Token]) -> Sequence[object]:
        """The number of each token's sentence."""
        return unit_numbers(attribution, tokens, "sentence")
