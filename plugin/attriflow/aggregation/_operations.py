"""What can be done with one attribution besides aggregating it."""

from __future__ import annotations

from typing import Any

from attriflow.aggregation._pipeline import Named, aggregate
from attriflow.aggregation._sides import sides_of
from attriflow.errors import InputError, check_choice
from attriflow.types import Attribution


def sliced(attribution: Attribution, span: Any) -> Attribution:
    """Inputs cut to a range of the source, or of a decoder-only model's prompt."""
    if not isinstance(span, slice) or span.step not in (None, 1):
        raise InputError(f"attributions are cut by ranges [start:end], not by {span!r}")
    sides = sides_of(attribution)
    start, end, _ = span.indices(len(sides.source) or sides.prompt)
    if start >= end:
        raise InputError(f"no token lies in [{start}:{end}]")
    return aggregate(attribution, "slices", options={"source_spans": (start, end)})


def weighted(attribution: Attribution, step_fn: str) -> Attribution:
    """One score per token, times a step score."""
    check_choice("step score", step_fn, attribution.step_scores)

    def weigh(reduced: Attribution) -> Attribution:
        weights = reduced.step_scores[step_fn].to(reduced.scores)
        return reduced.replace(scores=reduced.scores * weights.unsqueeze(1))

    named = Named(step=weigh, name=f"weight_attributions({step_fn!r})")
    return named(aggregate(attribution))


def scores_dict(attribution: Attribution) -> dict[str, dict[tuple[int, str], dict[Any, float]]]:
    """Scores as dictionaries: kind -> (position, generated token) -> (position, token) or name of a step score.

    Raises:
        InputError: More than one score per token.
    """
    if len(attribution.axes) > 2:
        raise InputError(f"there is more than one score per token ({attribution.axes}): aggregate them first")
    sides = sides_of(attribution)
    keys = [(i, t.text) for i, t in enumerate(sides.source)]
    keys += [(i, t.text) for i, t in enumerate(sides.decoder[: sides.read])]
    n = len(sides.source)
    kinds: dict[str, dict[tuple[int, str], dict[Any, float]]] = {
        "source_attributions": {},
        "target_attributions": {},
        "step_scores": {},
    }
    values = {name: v.tolist() for name, v in attribution.step_scores.items()}
    for step, (token, scores) in enumerate(zip(attribution.targets, attribution.scores.tolist(), strict=True)):
        key = attribution.positions(step)[0], token.text
        if n:
            kinds["source_attributions"][key] = dict(zip(keys[:n], scores[:n], strict=True))
        if sides.read:
            kinds["target_attributions"][key] = dict(zip(keys[n:], scores[n:], strict=True))
        kinds["step_scores"][key] = {name: v[step] for name, v in values.items()}
    return kinds
