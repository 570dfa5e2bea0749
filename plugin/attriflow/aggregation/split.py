"""Merge the tokens between the matches of a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from attriflow.aggregation._spans import UnitMerger
from attriflow.errors import InputError
from attriflow.registry import aggregators
from attriflow.texts.tokens import trimmed
from attriflow.texts.units import is_marker, text_of
from attriflow.types import Attribution, Token

Mode = Literal["single", "start", "end"]


@aggregators.register("split")
@dataclass(frozen=True, kw_only=True)
class SplitAggregator(UnitMerger):
    r"""One token for what stands between two matches of a regular expression, such as `[.,]` or `\n`.

    The pattern is searched in the text itself, which has spaces where tokens have markers. Spaces at the ends of a
    match belong to no token; a match of spaces only divides the tokens around it. A side without any match stays as it
    is, and so do special tokens.

    Attributes:
        split_pattern: Regular expression, or a compiled one.
        split_mode: What becomes of the tokens of a match: a token of their own ("single"), or merged with those that
            follow ("start") or come before ("end").
        aggregate_fn: Function for the scores of a part: a name or a callable.
        step_scores: Name of a step score -> function, in place of the one that its step function is registered with.
        aggregate_source: Merge tokens of the source, or of a decoder-only model's prompt.
        aggregate_target: Merge generated tokens, and with them steps.
    """

    name: ClassVar[str] = "split"
    split_pattern: str | re.Pattern[str]
    split_mode: Mode = "single"

    def __post_init__(self) -> None:
        """Check mode and pattern."""
        UnitMerger.__post_init__(self)
        try:
            re.compile(self.split_pattern)
        except (re.error, TypeError) as error:
            raise InputError(f"split_pattern {self.split_pattern!r} is no regular expression: {error}") from None

    def units(self, attribution: Attribution, tokens: Sequence[Token]) -> Sequence[object]:
        """The number of each token's part."""
        known = [t for t in tokens if t.start is not None]
        # the generated text of a decoder-only model holds its prompt
        text = text_of(attribution, known[-1]) if known else ""
        # spaces at the ends of a match belong to no token
        matches = [trimmed(text, *m.span()) for m in re.finditer(self.split_pattern, text)]
        if not matches:
            return range(len(tokens))
        breaks = []
        before, end, apart = None, 0, True  # of the token before: its match, where it ends, whether it stands apart
        for token in tokens:
            marker = is_marker(attribution, token)
            if token.start is None or token.end is None:
                breaks.append(marker or apart)  # spaces and later bytes go with the token before them
                apart = marker
                continue
            match = next((i for i, (a, b) in enumerate(matches) if a < min(b, token.end) and token.start < b), None)
            starts = match != before and match is not None and self.split_mode != "end"
            ends = match != before and before is not None and self.split_mode != "start"
            crossed = any(a == b and end <= a <= token.start for a, b in matches)
            breaks.append(marker or apart or starts or ends or crossed)
            before, end, apart = match, token.end, marker
        return list(accumulate(breaks))
