"""Merge the pieces of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from attriflow.aggregation._spans import UnitMerger
from attriflow.registry import aggregators
from attriflow.texts.units import unit_numbers
from attriflow.types import Attribution, Token


@aggregators.register("subwords")
@dataclass(frozen=True, kw_only=True)
class SubwordsAggregator(UnitMerger):
    """One token per word: what stands between white space, read off the tokenizer's own character spans.

    The same for byte-level BPE, SentencePiece and WordPiece, and for generated ids, whose text is not tokenised again.
    Special tokens stay apart, and a word that begins in the prompt and ends in the generated text stays two.

    Attributes:
        aggregate_fn: Function for the scores of a word: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        aggregate_source: Merge tokens of the source, or of a decoder-only model's prompt.
        aggregate_target: Merge generated tokens, and with them steps.
    """

    name: ClassVar[str] = "subwords"

    def units(self, attribution: Attribution, tokens: Sequence[Token]) -> Sequence[object]:
        """The number of each token's word."""
        return unit_numbers(attribution, tokens, "word")
