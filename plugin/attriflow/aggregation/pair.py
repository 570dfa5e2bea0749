"""The difference of two attributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import sub

import torch
from torch import Tensor

from attriflow.aggregation._sides import Sides, moved, sides_of
from attriflow.errors import InputError
from attriflow.registry import aggregators
from attriflow.texts.alignment import align_tokens
from attriflow.types import Attribution, Token

Pairs = list[tuple[int, int]]
"""Positions of counterparts."""


@aggregators.register("pair")
@dataclass(frozen=True, kw_only=True)
class PairAggregator:
    """What changes from an attribution to another one: `paired_attr` minus the attribution, token by token.

    Scores, step scores and sequence scores are subtracted alike. Sides with equally many tokens are compared by
    position; others are aligned by the likeness of their tokens, and tokens and steps without a counterpart are left
    out. Tokens that differ are shown as "before → after". A score that either of the two does not have is NaN.

    Attributes:
        paired_attr: The other attribution, with the same axes.
        aggregate_fn: Function of (attribution, other) in place of the difference: two tensors of one shape to a third.
    """

    paired_attr: Attribution
    aggregate_fn: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, attribution: Attribution) -> Attribution:
        """The difference; neither attribution is changed."""
        a, b = attribution, self.paired_attr
        _check_comparable(a, b)
        one, two = sides_of(a), sides_of(b)
        source = align(one.source, two.source)
        decoder = _same_role(align(one.decoder, two.decoder), one, two)
        steps = [(i - one.first, j - two.first) for i, j in decoder if i >= one.first]
        if a.spans is not None:
            steps = [(i, i) for i in range(len(a.spans))]
        n, m = len(one.source), len(two.source)
        inputs = [*source, *((n + i, m + j) for i, j in decoder if i < one.read and j < two.read)]
        if not inputs or not steps:
            raise InputError("the two attributions have no inputs or no steps in common")
        return a.replace(
            scores=self._differ(_pick(a.scores, steps, inputs, 0), _pick(b.scores, steps, inputs, 1)),
            norms=None,  # the length of a difference of vectors is not the difference of their lengths
            inputs=tuple(_both(a.inputs[i], b.inputs[j]) for i, j in inputs),
            targets=tuple(_both(a.targets[i], b.targets[j]) for i, j in steps),
            start=sum(i < one.first for i, _ in decoder),
            spans=moved(a.spans, [(i, i + 1) for i, _ in decoder]),
            step_scores={
                name: self._differ(_pick(values, steps, (), 0), _pick(b.step_scores[name], steps, (), 1))
                for name, values in a.step_scores.items()
            },
            sequence_scores={
                name: self._map(values, b.sequence_scores[name], source if name.startswith("encoder") else decoder)
                for name, values in a.sequence_scores.items()
            },
        )

    def _differ(self, one: Tensor, two: Tensor) -> Tensor:
        return sub(two, one) if self.aggregate_fn is None else self.aggregate_fn(one, two)

    def _map(self, one: Tensor, two: Tensor, pairs: Pairs) -> Tensor:
        known = [(i, j) for i, j in pairs if i < len(one) and j < len(two)]
        return self._differ(_pick(one, known, known, 0), _pick(two, known, known, 1))


def _check_comparable(a: Attribution, b: Attribution) -> None:
    if a.axes != b.axes or a.scores.shape[2:] != b.scores.shape[2:]:
        raise InputError(
            f"a pair needs the same axes, not {a.axes} {tuple(a.scores.shape)} and {b.axes} {tuple(b.scores.shape)}"
        )
    if (a.spans and len(a.spans)) != (b.spans and len(b.spans)):
        raise InputError("a pair needs the same number of spans, or steps that are tokens in both")
    for kind, one, two in (
        ("step score", a.step_scores, b.step_scores),
        ("sequence score", a.sequence_scores, b.sequence_scores),
    ):
        missing = sorted(set(one) - set(two))
        if missing:
            raise InputError(f"the paired attribution has no {kind} '{missing[0]}'")


def align(one: Sequence[Token], two: Sequence[Token]) -> Pairs:
    """Counterparts of two sides: by position where they are equally long, else by the likeness of tokens."""
    if len(one) == len(two):
        return [(i, i) for i in range(len(one))]
    if not one or not two:
        return []
    own, other = [t.text for t in one], [t.text for t in two]
    # ids of merged tokens say nothing, and an attribution has no embeddings: texts alone count
    known = {text: i for i, text in enumerate(dict.fromkeys([*own, *other]))}
    ids = [[known[text] for text in texts] for texts in (own, other)]
    found = align_tokens(ids[0], ids[1], own, other, torch.zeros(len(known), 1))
    return [(i, j) for i, j in enumerate(found) if j is not None]


def _same_role(pairs: Pairs, one: Sides, two: Sides) -> Pairs:
    """Pairs whose tokens are both explained, or both not."""
    return [(i, j) for i, j in pairs if (i < one.first) == (j < two.first)]


def _pick(values: Tensor, rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]], side: int) -> Tensor:
    out = values[[pair[side] for pair in rows]]
    return out[:, [pair[side] for pair in columns]] if columns else out


def _both(a: Token, b: Token) -> Token:
    return a if a.text == b.text else replace(a, text=f"{a.text} → {b.text}", id=-1)
