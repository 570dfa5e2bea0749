"""Spans of tokens merged into one token: as inputs, as steps, in step scores and in sequence scores alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from attriflow.aggregation._apply import Function, Span, check_function, reduce_spans
from attriflow.aggregation._sides import covering, moved, runs, sides_of
from attriflow.errors import check_choice
from attriflow.registry import step_functions
from attriflow.texts.units import Texts, text_of
from attriflow.types import Attribution, Token


@dataclass(frozen=True, kw_only=True)
class SpanMerger:
    """What the aggregators that merge tokens share.

    Scores are reduced over the steps of a span first and over its inputs then, from what is visible: a merged input is
    visible to a merged step if any part of it is visible to any part of the step. Norms are reduced like scores. Each
    step score has its own function: `step_scores`, or what its step function is registered with (`aggregate_map`, then
    `span`), or else the score of the largest magnitude.

    Attributes:
        aggregate_fn: Function for the scores of a span: a name (see `list_aggregation_functions`) or a callable.
        step_scores: Name of a step score -> function, in place of the registered one.
    """

    name: ClassVar[str]
    aggregate_fn: Function = "absmax"
    step_scores: Mapping[str, Function] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the functions."""
        for function in (self.aggregate_fn, *self.step_scores.values()):
            check_function(function)

    def merge(self, attribution: Attribution, source: Sequence[Span], decoder: Sequence[Span]) -> Attribution:
        """Merge spans of the source and of the decoder tokens (see `Sides`); each list covers its side."""
        a, sides = attribution, sides_of(attribution)
        for name in self.step_scores:
            check_choice("step score", name, a.step_scores)
        n, first = len(sides.source), sides.first
        inputs = [*source, *((n + i, n + min(j, sides.read)) for i, j in decoder if i < sides.read)]
        last = first + len(a.targets)
        steps = [(max(i, first) - first, min(j, last) - first) for i, j in decoder if j > first and i < last]
        if a.spans is not None:  # steps are spans already
            steps = [(i, i + 1) for i in range(len(a.targets))]

        def both(values: Tensor) -> Tensor:
            return reduce_spans(self.aggregate_fn, reduce_spans(self.aggregate_fn, values, steps, 0), inputs, 1)

        return a.replace(
            scores=both(a.scores),
            norms=None if a.norms is None else both(a.norms),
            inputs=tuple(merged_token(a, a.inputs[i:j]) for i, j in inputs),
            targets=tuple(merged_token(a, a.targets[i:j]) for i, j in steps),
            start=sum(j <= first for _, j in decoder),
            spans=moved(a.spans, decoder),
            step_scores={
                name: reduce_spans(self._step_function(a, name), values, steps, 0)
                for name, values in a.step_scores.items()
            },
            sequence_scores={
                name: self._sequence(values, source if name.startswith("encoder") else decoder)
                for name, values in a.sequence_scores.items()
            },
        )

    def _sequence(self, values: Tensor, spans: Sequence[Span]) -> Tensor:
        """Both axes of scores between the tokens of one side, receiving tokens first."""
        length = values.shape[0]  # the last decoder token is never read
        spans = [(i, min(j, length)) for i, j in spans if i < length]
        return reduce_spans(self.aggregate_fn, reduce_spans(self.aggregate_fn, values, spans, 1), spans, 0)

    def _step_function(self, attribution: Attribution, name: str) -> Function:
        """How the values of a step score combine over a span."""
        if name in self.step_scores:
            return self.step_scores[name]
        return span_function(name, attribution.provenance.step_scores_args, self.name)


def span_function(name: str, given: Mapping[str, Any], aggregator: str = "spans") -> Function:
    """What a step function is registered with for the values of a span.

    Args:
        name: Of the step function.
        given: Options of the step scores, as `step_scores_args`.
        aggregator: For an aggregator that has a function of its own.
    """
    info = step_functions.known(name)
    if info is None:  # convergence deltas, say
        return "absmax"
    known = info.meta.get("aggregate_map") or {}
    for key in (aggregator, "spans"):
        if key in known:
            return known[key]
    span: Function = info.meta.get("span", "absmax")
    own = {**given, **given[name]} if isinstance(given.get(name), Mapping) else given
    # the logarithm of a product is a sum
    return "sum" if span == "prod" and "logprob" in info.options and own.get("logprob") else span


@dataclass(frozen=True, kw_only=True)
class UnitMerger(SpanMerger):
    """A `SpanMerger` that finds the spans itself.

    Attributes:
        aggregate_source: Merge tokens of the source, or of a decoder-only model's prompt.
        aggregate_target: Merge generated tokens (all decoder tokens of encoder-decoders), and with them steps.
    """

    aggregate_source: bool = True
    aggregate_target: bool = True

    @abstractmethod
    def units(self, attribution: Attribution, tokens: Sequence[Token]) -> Sequence[object]:
        """A key per token of one side; neighbours with equal keys are merged."""

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with merged tokens; the one given is not changed."""
        sides = sides_of(attribution)
        source, decoder = (self._spans(attribution, tokens) for tokens in (sides.source, sides.decoder))
        return self.merge(attribution, source, decoder)

    def _spans(self, attribution: Attribution, tokens: Sequence[Token]) -> list[Span]:
        if not tokens:
            return []
        wanted = [self.aggregate_target if t.segment == "generated" else self.aggregate_source for t in tokens]
        keys = zip(self.units(attribution, tokens), tokens, strict=True)
        found = runs([(key, token.segment) for key, token in keys])
        return covering([span for span in found if wanted[span[0]]], len(tokens))


def merged_token(texts: Texts, tokens: Sequence[Token]) -> Token:
    """One token in the place of several: their text, no vocabulary id (-1), the span from the first to the last."""
    if len(tokens) == 1:
        return tokens[0]
    starts = [t.start for t in tokens if t.start is not None]
    ends = [t.end for t in tokens if t.end is not None]
    return Token(
        text=_joined(texts, tokens),
        id=-1,
        start=min(starts, default=None),
        end=max(ends, default=None),
        segment=tokens[-1].segment,
        special=all(t.special for t in tokens),
    )


def _joined(texts: Texts, tokens: Sequence[Token]) -> str:
    """The text from the first to the last token, special tokens where they stand."""
    parts, at = [], None
    for token in tokens:
        if token.start is None or token.end is None:
            parts += [token.text] * token.special  # spaces are in the text; later bytes belong to a character there
            continue
        text = text_of(texts, token)
        parts.append(text[token.start if at is None else at : token.end])
        at = max(token.end, at or 0)
    return "".join(parts) or "".join(t.text for t in tokens)
