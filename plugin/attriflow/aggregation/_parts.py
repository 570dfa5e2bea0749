"""Parts of the input merged, and the whole generated text if wanted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from attriflow.aggregation._spans import UnitMerger
from attriflow.texts.segments import Part
from attriflow.texts.units import is_marker, part_keys
from attriflow.types import Attribution, Token


@dataclass(frozen=True, kw_only=True)
class PartsMerger(UnitMerger):
    """A `UnitMerger` for parts that lie in the input; the generated text counts as one more part."""

    aggregate_target: bool = False

    @abstractmethod
    def parts(self, attribution: Attribution) -> Sequence[Part]:
        """Spans of the input text."""

    def units(self, attribution: Attribution, tokens: Sequence[Token]) -> Sequence[object]:
        """The part of each token of the input, one for all generated tokens; tokens outside and markers stay apart."""
        keys = part_keys(attribution, tokens, self.parts(attribution))
        for i, token in enumerate(tokens):
            if token.segment == "generated" and not is_marker(attribution, token):
                keys[i] = ("generated", 0)
        return keys
