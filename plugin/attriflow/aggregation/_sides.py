"""The tokens of an attribution by side, and ranges of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from attriflow.aggregation._apply import Span
from attriflow.errors import InputError
from attriflow.types import Attribution, Token

Spans = Span | Sequence[Span]
"""One range of positions `[start, end)` or several, in ascending order."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What an attribution's inputs and steps are made of.

    Attributes:
        source: Encoder tokens; empty for decoder-only models.
        decoder: Decoder tokens by position, with `UNKNOWN` for those before the explained ones that are no inputs.
        read: How many decoder tokens are inputs (0: only the source gets credit).
        first: Position of the first explained token; `decoder[first:]` are the targets, unless steps are spans.
    """

    source: tuple[Token, ...]
    decoder: tuple[Token, ...]
    read: int
    first: int

    @property
    def prompt(self) -> int:
        """How many decoder tokens stand before the generated ones."""
        return next((i for i, t in enumerate(self.decoder) if t.segment == "generated"), len(self.decoder))


UNKNOWN = Token(text="", id=-1, segment="generated", special=True)


def sides_of(attribution: Attribution) -> Sides:
    """Split the tokens; an attribution's inputs are source tokens, then decoder tokens."""
    inputs, start = attribution.inputs, attribution.start
    n = next((i for i, t in enumerate(inputs) if t.segment != "source"), len(inputs))
    read = len(inputs) - n
    known = (*inputs[n:], *([UNKNOWN] * (start - read)))
    if attribution.spans is not None:
        behind = max((stop for _, stop in attribution.spans), default=start) - len(known)
        return Sides(inputs[:n], (*known, *([UNKNOWN] * behind)), read, start)
    return Sides(inputs[:n], (*known, *attribution.targets[len(known) - start :]), read, start)


def moved(steps: Sequence[Span] | None, ranges: Sequence[Span]) -> tuple[Span, ...] | None:
    """Where steps that are spans lie once the decoder's tokens have become one for each of some ranges."""
    if steps is None:
        return None

    def place(position: int) -> int:
        return sum(stop <= position for _, stop in ranges)

    return tuple((place(first), place(stop - 1) + 1) for first, stop in steps)


def read_spans(option: str, spans: Spans | None, length: int) -> list[Span]:
    """Spans as a list.

    Raises:
        InputError: Empty, overlapping, out of order or beyond `length`.
    """
    given: list[Any] = list(spans or ())
    if given and isinstance(given[0], int):
        given = [given]
    for span in given:
        if not 0 <= span[0] < span[1] <= length:
            raise InputError(f"{option}: ({span[0]}, {span[1]}) is not a range of the {length} tokens there")
    for before, after in pairwise(given):
        if after[0] < before[1]:
            raise InputError(f"{option} must be in ascending order and not overlap, but {after} follows {before}")
    return [(a, b) for a, b in given]


def covering(spans: Sequence[Span], length: int) -> list[Span]:
    """The spans, and every position outside them as a span of its own."""
    out: list[Span] = []
    for start, end in (*spans, (length, length)):
        at = out[-1][1] if out else 0
        out += [(i, i + 1) for i in range(at, start)]
        if end > start:
            out.append((start, end))
    return out


def runs(keys: Sequence[object]) -> list[Span]:
    """Spans of equal neighbours; together they cover all positions."""
    ends = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
    edges = [0, *ends, len(keys)] if keys else []
    return list(pairwise(edges))


def on_both_sides(
    sides: Sides, source_spans: Spans | None, target_spans: Spans | None
) -> tuple[list[Span], list[Span]]:
    """Spans of the source and of the decoder tokens; the source of decoder-only models is their prompt."""
    target = read_spans("target_spans", target_spans, len(sides.decoder))
    if sides.source:
        return read_spans("source_spans", source_spans, len(sides.source)), target
    prompt = read_spans("source_spans", source_spans, sides.prompt)
    together = "source_spans and target_spans together"
    return [], read_spans(together, sorted({*prompt, *target}), len(sides.decoder))
